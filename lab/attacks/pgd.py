"""Projected gradient descent: Madry et al. 2018, "Towards Deep Learning Models Resistant…"."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import ascend, best_of, checked, random_start, where_image

__all__ = ["PGD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PGD:
    """Signed gradient ascent, projected onto the l-infinity ball after every step (section 2.1).

    Deviation: the best iterate of each image is returned instead of the last one.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        steps: gradient steps in each restart.
        step_size: length of a step; 2.5 epsilon / steps where None.
        restarts: independent runs; each image keeps its best.
        random_start: whether a run starts at a random point of the ball.
        bounds: range of pixel values.
    """

    epsilon: float
    steps: int
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(epsilon=self.epsilon, steps=self.steps, restarts=self.restarts)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``."""
        run = partial(self._run, images.detach(), objective, generator)
        return best_of(run for _ in range(self.restarts))

    def _run(
        self, clean: Tensor, objective: Objective, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        step_size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        current = clean
        if self.random_start:
            current = random_start(clean, self.epsilon, self.bounds, generator)
        best, (best_losses, gradients) = current, ascend(current, objective)
        for _ in range(self.steps):
            # x(k+1) = P(x(k) + alpha * sign(grad L(x(k))))
            moved = current + step_size * gradients.sign()
            current = self.bounds.project(moved, clean, self.epsilon)
            losses, gradients = ascend(current, objective)
            best = where_image(losses > best_losses, current, best)
            best_losses = torch.maximum(losses, best_losses)
        return best, best_losses
