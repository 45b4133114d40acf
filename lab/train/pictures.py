"""What a purifier sees in every step: photographs, scenes, text and dead leaves, all unattacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from codefend.lab.documents.document import Document, Fonts
from codefend.lab.documents.kinds import draw_page, draw_receipt, draw_screen
from codefend.lab.errors import LabError
from codefend.lab.train.crops import text_crops
from codefend.lab.train.photographs import Photographs, augmented
from codefend.lab.world.compose import World
from codefend.lab.world.dead_leaves import dead_leaves
from codefend.lab.world.scenes import scene_batch

__all__ = ["PictureMix"]

_SCENE_SIDE_PX = 128
_TEXT_SIZES_PX = (9, 11, 13, 16, 20, 26, 34)
_KINDS = (draw_page, draw_receipt, draw_screen)
_STEPS_A_DOCUMENT = 16


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
        pictures = [_document_window(self.size_px, step, rng) for _ in range(num_text - num_lines)]
        pictures += [dead_leaves(self.size_px, rng) for _ in range(num_leaves)]
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


def _document_window(size_px: int, step: int, rng: np.random.Generator) -> np.ndarray:
    """A window, pixel by pixel, of one of a few documents that some steps in a row share."""
    place = int(rng.integers(4))
    image = _document(step // _STEPS_A_DOCUMENT * 4 + place).image
    short = [max(0, size_px - length) for length in image.shape[:2]]
    image = np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
    top, left = (int(rng.integers(length - size_px + 1)) for length in image.shape[:2])
    return augmented(image[top : top + size_px, left : left + size_px], rng)


@lru_cache(maxsize=8)
def _document(number: int) -> Document:
    rng = np.random.default_rng([12, number])
    draw = _KINDS[int(rng.integers(len(_KINDS)))]
    size_px = int(rng.choice(_TEXT_SIZES_PX))
    return draw(number, size_px, _fonts(), seed=1_000_003)


@lru_cache(maxsize=1)
def _fonts() -> Fonts:
    try:
        return Fonts.find()
    except LabError:  # a machine without them: the built-in face is better than no text
        return Fonts.built_in()
