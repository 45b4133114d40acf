"""Perceptual attack: Laidlaw et al. 2021, "Perceptual Adversarial Robustness", with SSIM."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.budgets import Similarity
from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import best_of, checked, climb, uniform
from codefend.lab.attacks.similarity import MIN_SIDE_PX, local_deviation, ssim

__all__ = ["PerceptualAttack"]

_NUM_BISECTIONS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceptualAttack:
    """Gradient ascent under a bound on one minus SSIM; single pixels may move as far as they like.

    Like PPGD (section 4), each step is followed by a bisection along the line to the clean image.
    Deviations: the distance is SSIM's (no weights to download), not LPIPS's; steps are signed and
    as long as the image is uneven around each pixel, where SSIM hides them; the best iterate is
    returned.

    Attributes:
        distance: greatest one minus SSIM.
        steps: gradient steps in each restart.
        step_size: mean length of a step, as a fraction of the range; where None, 2.5 / steps of
            how far random signs of the same shape may go.
        restarts: independent runs; each image keeps its best.
        bounds: range of pixel values; SSIM's constants are those of [0, 1].
    """

    steps: int
    distance: float = 0.05
    step_size: float | None = None
    restarts: int = 1
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(steps=self.steps, restarts=self.restarts)
        Similarity(self.distance)

    @property
    def budget(self) -> Similarity:
        """See ``Budgeted``."""
        return Similarity(self.distance)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``.

        Raises:
            ValueError: for images smaller than SSIM's window.
        """
        if min(images.shape[-2:]) < MIN_SIDE_PX:
            raise ValueError(f"images must have sides of at least {MIN_SIDE_PX} pixels")
        run = partial(self._run, images.detach(), objective, generator)
        return best_of(run for _ in range(self.restarts))

    def _run(
        self, clean: Tensor, objective: Objective, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        shape = local_deviation(clean)
        shape = shape / shape.mean(dim=(1, 2, 3), keepdim=True)
        start = self._project(shape * uniform(clean, generator).sign(), clean)
        lengths: Tensor | float = 2.5 / self.steps * start.abs().mean(dim=(1, 2, 3), keepdim=True)
        if self.step_size is not None:
            lengths = self.step_size

        def render(delta: Tensor) -> Tensor:
            return self.bounds.clip(clean + delta)

        def step(delta: Tensor, gradients: Tensor) -> Tensor:
            return self._project(delta + lengths * shape * gradients.sign(), clean)

        return climb(start, render, step, objective, steps=self.steps)

    def _project(self, delta: Tensor, clean: Tensor) -> Tensor:
        """Scales each perturbation down until its image is within the distance."""
        delta = self.bounds.clip(clean + delta) - clean
        inside = torch.zeros(len(clean), dtype=clean.dtype, device=clean.device)
        outside = torch.where(self._is_inside(delta, clean), inside, inside + 1.0)
        for _ in range(_NUM_BISECTIONS):
            middle = (inside + outside) / 2.0
            is_inside = self._is_inside(middle[:, None, None, None] * delta, clean)
            inside = torch.where(is_inside, middle, inside)
            outside = torch.where(is_inside, outside, middle)
        scale = torch.where(outside > 0.0, inside, 1.0)
        return scale[:, None, None, None] * delta

    def _is_inside(self, delta: Tensor, clean: Tensor) -> Tensor:
        return 1.0 - ssim(clean + delta, clean) <= self.distance
