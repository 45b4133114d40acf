"""What purifiers learn from, in every step: pairs, clean images, and the encoder that guides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codefend.lab.train.crops import PhotoSource, clean_crops
from codefend.lab.train.online import OnlineSource
from codefend.lab.train.pairs import Pairs

__all__ = ["Course", "CourseBatches", "Guide", "TrainingSource"]

SCALE_RANGE = (0.5, 1.1)


class Guide(Protocol):
    """A frozen vision encoder."""

    def encoder_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to (B, places, C), differentiably."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Pairs of one size, the encoder that they were made on, and their part in every step.

    Attributes:
        pairs: Attacked–clean pairs.
        guide: Whose features shall come back.
        batch_size: Images a step.
        through_share: Share of them that are attacked anew, through the purifier as it is.
        clean_share: Share of them that are clean on both sides.
        crop_share: Share of them that are clean crops of photos and text.
        weight: Of its loss in the whole.
    """

    pairs: Pairs
    guide: Guide
    batch_size: int
    through_share: float = 0.0
    clean_share: float = 0.25
    crop_share: float = 0.125
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares that are none, or that together are more than the whole."""
        shares = (self.through_share, self.clean_share, self.crop_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"shares must be at least 0, and together at most 1, not {shares}")

    @property
    def through(self) -> slice:
        """The rows of a batch that are attacked through the purifier."""
        first = round(self.batch_size * self.clean_share)
        return slice(first, first + round(self.batch_size * self.through_share))

    def batch(self, world: PhotoSource, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Clean and attacked images, (B, 3, H, W) uint8, perturbations rescaled and mirrored."""
        num_crops = round(self.batch_size * self.crop_share)
        rows = torch.from_numpy(
            rng.integers(len(self.pairs.clean), size=self.batch_size - num_crops)
        )
        clean = self.pairs.clean[rows]
        perturbation = self.pairs.attacked[rows].float() - clean
        scale = torch.from_numpy(rng.uniform(*SCALE_RANGE, size=len(rows))).float()
        scale[: round(self.batch_size * self.clean_share)] = 0
        attacked = (clean + scale.view(-1, 1, 1, 1) * perturbation).round().clamp(0, 255)
        crops = clean_crops(world, num_crops, clean.shape[-1], rng)
        clean, attacked = torch.cat([clean, crops]), torch.cat([attacked.to(torch.uint8), crops])
        mirrored = torch.from_numpy(rng.random(len(clean)) < 0.5).view(-1, 1, 1, 1)
        return (
            torch.where(mirrored, clean.flip(-1), clean),
            torch.where(mirrored, attacked.flip(-1), attacked),
        )


TrainingSource = Course | OnlineSource
"""Stored pairs, or pictures that are attacked as the purifier learns."""


@dataclass(frozen=True, slots=True)
class CourseBatches:
    """A batch of every course, by step.

    Attributes:
        world: For crops that nobody attacked.
        courses: Each gives its own images.
        seed: Decides, with the step, what is drawn.
    """

    world: PhotoSource
    courses: Sequence[TrainingSource]
    seed: int

    def __getitem__(self, step: int) -> list[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng([self.seed, 6, step])
        return [
            course.batch(step)
            if isinstance(course, OnlineSource)
            else course.batch(self.world, rng)
            for course in self.courses
        ]
