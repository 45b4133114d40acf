"""What a purifier sees in every step: photographs, scenes, text and dead leaves, all unattacked.

Photographs come at their full resolution, in windows at every scale; none that a test shows is
among them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import imagehash
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from codefend.lab.documents.document import Fonts
from codefend.lab.documents.kinds import draw_page, draw_receipt, draw_screen
from codefend.lab.errors import LabError
from codefend.lab.train.crops import text_crops
from codefend.lab.world.assets import photo_paths
from codefend.lab.world.compose import World
from codefend.lab.world.dead_leaves import dead_leaves
from codefend.lab.world.scenes import scene_batch
from codefend.lab.world.splits import SAME_PHOTO_BITS

__all__ = ["Photographs", "PictureMix", "augmented", "held_out_hashes", "is_held_out"]


TEST_PHOTOS_FILE = Path(__file__).parent / "held_out_photos.json"
_PHOTOS_AT_ONCE = 6
_STEPS_A_POOL = 48
_JPEG_SHARE = 0.3
_COLOUR_SHARE = 0.5
_LEAST_DETAIL = 4.0  # levels from one pixel to the next, in the mean
_FLAT_SHARE = 0.1
_TRIES = 6


@dataclass(frozen=True, slots=True)
class Photographs:
    """Pictures on disk, read a few at a time: decoding one takes as long as training on one.

    Attributes:
        paths: of the files.
    """

    paths: tuple[Path, ...]

    @classmethod
    def find(cls, folders: Sequence[Path], *, only: Collection[str] | None = None) -> Photographs:
        """The pictures below some folders, without those that a test shows.

        Args:
            folders: searched whole.
            only: paths relative to their folder that alone are taken, such as a world's training
                split; all where None.

        Raises:
            LabError: There is none.
        """
        found = [
            path
            for folder in folders
            for path in sorted(photo_paths(folder))
            if (only is None or str(path.relative_to(folder)) in only) and not is_held_out(path)
        ]
        if not found:
            raise LabError(f"no photographs in {', '.join(map(str, folders))}")
        return cls(tuple(found))

    def windows(
        self, num: int, size_px: int, step: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Augmented squares at scales from 1:1 to the whole photo.

        Args:
            num: how many.
            size_px: side of each.
            step: of training: some dozens of steps in a row share half a dozen photos.
            rng: of places, scales and augmentation.

        Returns:
            (size, size, 3) uint8 each.
        """
        turn, first = divmod(step // _STEPS_A_POOL * _PHOTOS_AT_ONCE, len(self.paths))
        order = [*_shuffled(len(self.paths), turn), *_shuffled(len(self.paths), turn + 1)]
        pool = [self.paths[i] for i in order[first : first + _PHOTOS_AT_ONCE]]
        return [_detailed(pool, size_px, rng) for _ in range(num)]


def held_out_hashes() -> list[imagehash.ImageHash]:
    """Perceptual hashes of every picture that a test shows."""
    listed = json.loads(TEST_PHOTOS_FILE.read_text())
    return [imagehash.hex_to_hash(text) for hashes in listed.values() for text in hashes]


def is_held_out(path: Path) -> bool:
    """Whether a picture is, at another size or crop perhaps, one that a test shows."""
    with Image.open(path) as opened:
        opened.draft("RGB", (512, 512))
        own = imagehash.phash(ImageOps.exif_transpose(opened).convert("RGB"))
    return any(own - other <= SAME_PHOTO_BITS for other in _known())


@lru_cache(maxsize=1)
def _known() -> tuple[imagehash.ImageHash, ...]:
    return tuple(held_out_hashes())


@lru_cache(maxsize=4)
def _shuffled(num: int, turn: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng([9, turn]).permutation(num))


@lru_cache(maxsize=_PHOTOS_AT_ONCE)
def _read(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def _detailed(pool: Sequence[Path], size_px: int, rng: np.random.Generator) -> np.ndarray:
    """A window with something in it: of skies and flat drawings only a share is taken."""
    window = _window(pool[int(rng.integers(len(pool)))], size_px, rng)
    for _ in range(_TRIES):
        detail = np.abs(np.diff(window.mean(axis=2), axis=1)).mean()
        if detail > _LEAST_DETAIL or rng.random() < _FLAT_SHARE:
            break
        window = _window(pool[int(rng.integers(len(pool)))], size_px, rng)
    return window


def _window(path: Path, size_px: int, rng: np.random.Generator) -> np.ndarray:
    photo = _read(path)
    longest = min(photo.size)
    side = float(np.exp(rng.uniform(np.log(min(size_px, longest)), np.log(longest))))
    left, top = (float(rng.uniform(0, length - side)) for length in photo.size)
    if side < 1.05 * size_px:  # pixels as they are, not between their places
        left, top, side = int(left), int(top), min(size_px, longest)
    box = (left, top, left + side, top + side)
    resample = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR)
    chosen = resample[int(rng.integers(len(resample)))]
    window = photo.resize((size_px, size_px), chosen, box, reducing_gap=3.0)
    return augmented(np.asarray(window), rng)


def augmented(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 mirrored, in other light, and through JPEG, each of it now and then."""
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if rng.random() < _COLOUR_SHARE:
        gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3))
        gamma = float(np.exp(rng.normal(0, 0.2)))
        levels = 255.0 * (pixels / 255.0) ** gamma * gain
        pixels = levels.round().clip(0, 255).astype(np.uint8)
    if rng.random() < _JPEG_SHARE:
        buffer = io.BytesIO()
        quality = int(rng.integers(40, 96))
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as decoded:
            pixels = np.asarray(decoded)
    return np.ascontiguousarray(pixels)


_SCENE_SIDE_PX = 128
_TEXT_SIZES_PX = (9, 11, 13, 16, 20, 26, 34)
_KINDS = (draw_page, draw_receipt, draw_screen)
_STEPS_A_CANVAS = 16
_CANVAS_SIDE_PX = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureMix:
    """Windows of every kind of picture, so that none is forgotten while another is learned.

    Attributes:
        world: whose training scenes are composed.
        photographs: at full resolution.
        size_px: side of a window, at most a scene's.
        batch_size: windows a step.
        scene_share: share of them that are scenes.
        text_share: share that is pages, receipts, screens and lines of words.
        leaves_share: share that is dead leaves; photographs are the rest.
        seed: of everything.
    """

    world: World
    photographs: Photographs
    size_px: int = 128
    batch_size: int = 16
    scene_share: float = 0.25
    text_share: float = 0.1875
    leaves_share: float = 0.125
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses shares that are none, and windows larger than a scene."""
        shares = (self.scene_share, self.text_share, self.leaves_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise LabError(f"shares must be at least 0, and together at most 1, not {shares}")
        if self.size_px > _SCENE_SIDE_PX:
            raise LabError(f"windows are at most {_SCENE_SIDE_PX} pixels wide, as scenes are")

    def batch(self, step: int) -> Tensor:
        """(batch_size, 3, size, size) uint8 of one step: scenes, text, leaves, photographs."""
        rng = np.random.default_rng([self.seed, 11, step])
        num_scenes, num_text, num_leaves = (
            round(self.batch_size * share)
            for share in (self.scene_share, self.text_share, self.leaves_share)
        )
        num_lines = num_text // 3
        pictures = [
            _shared_window(_document, self.size_px, step, rng) for _ in range(num_text - num_lines)
        ]
        pictures += [_shared_window(_leaves, self.size_px, step, rng) for _ in range(num_leaves)]
        num_photos = self.batch_size - num_scenes - num_text - num_leaves
        pictures += self.photographs.windows(num_photos, self.size_px, step, rng)
        parts = [
            self._scenes(num_scenes, step, rng),
            text_crops(num_lines, self.size_px, rng),
            _stacked(pictures, self.size_px),
        ]
        return torch.cat(parts)

    def _scenes(self, num: int, step: int, rng: np.random.Generator) -> Tensor:
        if num == 0:
            return torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
        numbers = range(step * num, (step + 1) * num)
        scenes = scene_batch(self.world, "train", numbers, seed=self.seed + 30).images
        top, left = (int(i) for i in rng.integers(_SCENE_SIDE_PX - self.size_px + 1, size=2))
        return scenes[..., top : top + self.size_px, left : left + self.size_px]


def _stacked(pictures: Sequence[np.ndarray], size_px: int) -> Tensor:
    if not pictures:
        return torch.empty(0, 3, size_px, size_px, dtype=torch.uint8)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _shared_window(
    canvas_of: Callable[[int], np.ndarray], size_px: int, step: int, rng: np.random.Generator
) -> np.ndarray:
    """A window, pixel by pixel, of one of a few canvases that some steps in a row share.

    To paint one takes as long as to train on many.
    """
    image = canvas_of(step // _STEPS_A_CANVAS * 4 + int(rng.integers(4)))
    short = [max(0, size_px - length) for length in image.shape[:2]]
    image = np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
    top, left = (int(rng.integers(length - size_px + 1)) for length in image.shape[:2])
    return augmented(image[top : top + size_px, left : left + size_px], rng)


@lru_cache(maxsize=8)
def _leaves(number: int) -> np.ndarray:
    return dead_leaves(_CANVAS_SIDE_PX, np.random.default_rng([13, number]))


@lru_cache(maxsize=8)
def _document(number: int) -> np.ndarray:
    rng = np.random.default_rng([12, number])
    draw = _KINDS[int(rng.integers(len(_KINDS)))]
    size_px = int(rng.choice(_TEXT_SIZES_PX))
    return draw(number, size_px, _fonts(), seed=1_000_003).image


@lru_cache(maxsize=1)
def _fonts() -> Fonts:
    try:
        return Fonts.find()
    except LabError:  # a machine without them: the built-in face is better than no text
        return Fonts.built_in()
