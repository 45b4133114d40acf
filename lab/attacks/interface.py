"""What every attack is, where it may go, and what its attacker is taken to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

__all__ = ["Attack", "Bounds", "Budget", "Budgeted", "Goal", "Objective", "Tier"]

Goal = Literal["language", "margin", "encoder", "prototype", "matching"]
"""What an attack moves: see ``codefend.lab.attacks.objectives``."""

Objective = Callable[[Tensor], Tensor]
"""Maps images (B, 3, H, W) to losses (B,) that an attack *maximises*."""


class Tier(StrEnum):
    """Threat models, by what the attacker has."""

    CLEAN = "clean"
    OBLIVIOUS = "t0"  # the MLLM's gradients, no knowledge of the purifier
    TRANSFER = "t1"  # a surrogate purifier of its own
    WHITE_BOX = "t2"  # the deployed purifier and the MLLM
    RESUBMISSION = "t3"  # sends the same image again
    QUERY = "t4"  # HTTP responses only


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed range of pixel values."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuses an empty range."""
        if not self.low < self.high:
            raise ValueError(f"empty range [{self.low}, {self.high}]")

    def clip(self, images: Tensor) -> Tensor:
        """``images`` brought into the range."""
        return images.clamp(self.low, self.high)

    def project(self, images: Tensor, clean: Tensor, epsilon: float) -> Tensor:
        """The nearest images within ``epsilon`` of ``clean`` under l-infinity and in the range."""
        return self.clip(torch.minimum(torch.maximum(images, clean - epsilon), clean + epsilon))


class Attack(Protocol):
    """Looks for images near the given ones on which an objective is high."""

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attacks a batch; each image keeps its own best.

        Args:
            images: (B, 3, H, W) float in the attack's bounds.
            objective: per-image losses to maximise.
            generator: source of every random choice.

        Returns:
            Adversarial images of the same shape, in the same bounds.
        """
        ...


class Budget(Protocol):
    """How far an upload may be from its clean image, in whatever the attack is bounded by."""

    def quantise(self, adversarial: Tensor, clean: np.ndarray) -> np.ndarray:
        """Rounds to whole levels without leaving the budget.

        Args:
            adversarial: (B, 3, H, W) float in [0, 1], within the budget before rounding.
            clean: (B, H, W, 3) uint8.

        Returns:
            (B, H, W, 3) uint8.
        """
        ...

    def admits(self, attacked: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """Whether each image of (B, H, W, 3) uint8 is within the budget of its clean one: (B,)."""
        ...


@runtime_checkable
class Budgeted(Protocol):
    """An attack that is bounded by something else than l-infinity."""

    @property
    def budget(self) -> Budget:
        """Its bound."""
        ...
