"""Adversarial patch: Karmon et al. 2018, "LaVAN: Localized and Visible Adversarial Noise"."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.budgets import Window
from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import best_of, checked, climb, uniform

__all__ = ["AdversarialPatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversarialPatch:
    """Signed gradient ascent on the pixels of one square, whatever their magnitude.

    Deviations: steps are signed and projected onto the range, as in PGD, and the best iterate is
    returned; one patch an image, not one for all (Brown et al. 2017, "Adversarial Patch").

    Attributes:
        area: share of the image that the square may cover.
        steps: gradient steps in each restart.
        step_size: length of a step; 2.5 ranges / steps where None.
        restarts: independent runs, each at a new place where places are random.
        place: where the square lies, as shares (down, right) of the room it has; random for each
            image where None.
        bounds: range of pixel values, which is all that bounds the patch's own.
    """

    steps: int
    area: float = 0.05
    step_size: float | None = None
    restarts: int = 1
    place: tuple[float, float] | None = None
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(steps=self.steps, restarts=self.restarts)
        if self.place is not None and not all(0.0 <= share <= 1.0 for share in self.place):
            raise ValueError(f"a place must be two shares in [0, 1], got {self.place}")
        Window(self.area)

    @property
    def budget(self) -> Window:
        """See ``Budgeted``."""
        return Window(self.area)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``."""
        run = partial(self._run, images.detach(), objective, generator)
        return best_of(run for _ in range(self.restarts))

    def _run(
        self, clean: Tensor, objective: Objective, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        low, high = self.bounds.low, self.bounds.high
        step_size = 2.5 * (high - low) / self.steps if self.step_size is None else self.step_size
        mask = self._mask(clean, generator)

        def render(patch: Tensor) -> Tensor:
            return torch.where(mask, patch, clean)

        def step(patch: Tensor, gradients: Tensor) -> Tensor:
            return self.bounds.clip(patch + step_size * gradients.sign())

        start = low + (high - low) * (uniform(clean, generator) + 1.0) / 2.0
        return climb(start, render, step, objective, steps=self.steps)

    def _mask(self, clean: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, 1, H, W) bool: one square in each image."""
        num, _, height, width = clean.shape
        side = min(math.isqrt(int(self.area * height * width)), height, width)
        if side == 0:
            raise ValueError(f"{self.area:.1%} of {height} x {width} pixels is not one pixel")
        shares = torch.rand(num, 2, generator=generator)
        if self.place is not None:
            shares = torch.tensor([self.place]).expand(num, 2)
        room = torch.tensor([height - side, width - side])
        top, left = ((shares * (room + 1)).long().minimum(room).to(clean.device)).unbind(dim=1)
        rows = torch.arange(height, device=clean.device) - top[:, None]
        columns = torch.arange(width, device=clean.device) - left[:, None]
        down, across = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
        return (down[:, :, None] & across[:, None, :])[:, None]
