"""Clean images that nobody attacks: windows of photos and scenes, and rendered text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from codefend.lab.world.compose import World
from codefend.lab.world.layout import KINDS, SIGN_WORDS, Split
from codefend.lab.world.scenes import scene_batch

__all__ = ["CleanBatches", "PhotoSource", "clean_crops", "photo_crops", "text_crops"]

SCENE_SHARE = 0.5
TEXT_SHARE = 0.35
TEXT_SIDES_PX = (9, 30)
_FACES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")


class PhotoSource(Protocol):
    """The embedded world, or a folder of pictures."""

    @property
    def photos(self) -> Mapping[Split, Sequence[Tensor]]:
        """For each split, (3, H, W) uint8 tensors of any sizes."""
        ...


@dataclass(frozen=True, slots=True)
class CleanBatches:
    """(B, 3, size, size) uint8: windows of scenes, half of them, and of photos and text.

    What a base is trained on, in pixels or in latents.

    Attributes:
        world: Its training split.
        batch_size: Images a step.
        size_px: Side of the windows, at most a scene's.
        seed: Decides, with the step, what is drawn.
    """

    world: World
    batch_size: int
    size_px: int
    seed: int

    def __getitem__(self, step: int) -> Tensor:
        num_scenes = round(self.batch_size * SCENE_SHARE)
        first = step * num_scenes
        scenes = scene_batch(
            self.world, "train", range(first, first + num_scenes), seed=self.seed + 10
        ).images
        rng = np.random.default_rng([self.seed, 4, step])
        crops = clean_crops(self.world, self.batch_size - num_scenes, self.size_px, rng)
        return torch.cat([_random_window(scenes, self.size_px, rng), crops])


def clean_crops(world: PhotoSource, num: int, size_px: int, rng: np.random.Generator) -> Tensor:
    """(num, 3, size, size) uint8, about a third of it text and the rest photos."""
    num_text = round(num * TEXT_SHARE)
    photos = photo_crops(world, num - num_text, size_px, rng)
    return torch.cat([text_crops(num_text, size_px, rng), photos])


def photo_crops(
    world: PhotoSource, num: int, size_px: int, rng: np.random.Generator, split: Split = "train"
) -> Tensor:
    """(num, 3, size, size) uint8 windows of a split's photos, at scales from 1:1 to the whole."""
    photos = world.photos[split]
    crops = torch.empty(num, 3, size_px, size_px, dtype=torch.uint8)
    for crop in crops:
        photo = photos[int(rng.integers(len(photos)))]
        _, height, width = photo.shape
        scale = np.exp(rng.uniform(np.log(min(size_px, 512) / 512), 0))
        side = max(1, int(min(height, width) * scale))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        window = photo[:, top : top + side, left : left + side][None].float()
        small = functional.interpolate(window, (size_px, size_px), mode="bilinear", antialias=True)
        crop.copy_(small[0].round().clamp(0, 255))
        if rng.random() < 0.5:
            crop.copy_(crop.flip(-1))
    return crops


def text_crops(num: int, size_px: int, rng: np.random.Generator) -> Tensor:
    """(num, 3, size, size) uint8 windows of lines of words, dark on light or light on dark."""
    crops = torch.empty(num, 3, size_px, size_px, dtype=torch.uint8)
    for crop in crops:
        crop.copy_(torch.from_numpy(_text(size_px, rng)).permute(2, 0, 1))
    return crops


def _text(size_px: int, rng: np.random.Generator) -> np.ndarray:
    height_px = int(np.exp(rng.uniform(*np.log(TEXT_SIDES_PX))))
    font = _font(_FACES[int(rng.integers(len(_FACES)))], height_px)
    paper, ink = rng.integers(200, 256, 3), rng.integers(0, 90, 3)
    if rng.random() < 0.3:
        paper, ink = ink, paper
    image = Image.new("RGB", (size_px, size_px), tuple(int(level) for level in paper))
    draw = ImageDraw.Draw(image)
    pitch = height_px * rng.uniform(1.15, 1.7)
    for line in range(int(size_px / pitch) + 2):
        place = (float(rng.uniform(-2, 1)) * height_px, (line - rng.random()) * pitch)
        draw.text(place, _words(size_px // height_px + 4, rng), tuple(map(int, ink)), font)
    return np.array(image)


def _words(num_characters: int, rng: np.random.Generator) -> str:
    """Words of the world and numbers, in any case, with a little punctuation."""
    words: list[str] = []
    vocabulary = _vocabulary()
    while sum(map(len, words)) < num_characters * 2:
        word = str(rng.choice(vocabulary)) if rng.random() < 0.75 else str(rng.integers(10_000))
        draw = rng.random()
        word = word.upper() if draw < 0.15 else word.capitalize() if draw < 0.4 else word
        words.append(word + str(rng.choice(["", "", "", ",", ".", ":", "%", "!", "?", ")"])))
    return " ".join(words)


@cache
def _vocabulary() -> tuple[str, ...]:
    kinds = (word for kind in KINDS for word in (*kind.name.split(), kind.category))
    return tuple(sorted({*kinds, *SIGN_WORDS}))


@cache
def _font(face: str, height_px: int) -> ImageFont.FreeTypeFont:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(fonts / face), height_px)


def _random_window(images: Tensor, size_px: int, rng: np.random.Generator) -> Tensor:
    top, left = (int(rng.integers(images.shape[-1] - size_px + 1)) for _ in range(2))
    return images[..., top : top + size_px, left : left + size_px]
