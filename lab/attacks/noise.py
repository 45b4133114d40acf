"""Uniform noise of the same size as an attack: the sanity check that should do nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import random_start

__all__ = ["UniformNoise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformNoise:
    """A random point of the l-infinity ball; looks at no objective.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        bounds: range of pixel values.
    """

    epsilon: float
    bounds: Bounds = field(default_factory=Bounds)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` is never asked."""
        return random_start(images.detach(), self.epsilon, self.bounds, generator)
