"""Batches of images that nobody attacked: what a base is trained on, in pixels or in latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codefend.lab.train.crops import clean_crops
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import scene_batch

__all__ = ["CleanBatches"]

SCENE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class CleanBatches:
    """(B, 3, size, size) uint8: windows of scenes, half of them, and of photos and text.

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


def _random_window(images: Tensor, size_px: int, rng: np.random.Generator) -> Tensor:
    top, left = (int(rng.integers(images.shape[-1] - size_px + 1)) for _ in range(2))
    return images[..., top : top + size_px, left : left + size_px]
