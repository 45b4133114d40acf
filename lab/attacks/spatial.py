"""Spatial attack: Xiao et al. 2018, "Spatially Transformed Adversarial Examples" (stAdv)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.attacks.budgets import Shift
from codefend.lab.attacks.interface import Objective
from codefend.lab.attacks.search import best_of, checked, climb, uniform

__all__ = ["SpatialFlow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialFlow:
    """Moves pixels instead of changing them: a smooth flow field, each image its own.

    Pixels are read bilinearly from where the flow points (equation 1). Deviations: the flow is
    smooth because it is a cubic B-spline of few knots, not through a loss of its own (equation 3);
    its length is bounded, because a spline never leaves the range of its knots; signed steps
    instead of L-BFGS.

    Attributes:
        radius_px: longest way of a pixel along each axis.
        steps: gradient steps in each restart.
        step_size: length of a step of the knots in pixels; 2.5 radius_px / steps where None.
        restarts: independent runs; each image keeps its best.
        spacing_px: from one knot to the next; the flow is smooth at this scale.
    """

    steps: int
    radius_px: float = 2.0
    step_size: float | None = None
    restarts: int = 1
    spacing_px: int = 8

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(steps=self.steps, restarts=self.restarts)
        Shift(self.radius_px)
        if self.spacing_px < 1:
            raise ValueError(f"knots must be at least a pixel apart, got {self.spacing_px}")

    @property
    def budget(self) -> Shift:
        """See ``Budgeted``."""
        return Shift(self.radius_px)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``."""
        run = partial(self._run, images.detach(), objective, generator)
        return best_of(run for _ in range(self.restarts))

    def _run(
        self, clean: Tensor, objective: Objective, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        radius = self.radius_px
        step_size = 2.5 * radius / self.steps if self.step_size is None else self.step_size
        down, across = (_spline(side, self.spacing_px).to(clean) for side in clean.shape[-2:])

        def render(knots: Tensor) -> Tensor:
            return _warp(clean, down @ knots @ across.T)

        def step(knots: Tensor, gradients: Tensor) -> Tensor:
            return (knots + step_size * gradients.sign()).clamp(-radius, radius)

        empty = clean.new_zeros(len(clean), 2, down.shape[1], across.shape[1])
        return climb(radius * uniform(empty, generator), render, step, objective, steps=self.steps)


def _spline(length: int, spacing: int) -> Tensor:
    """(length, knots): the weights of a uniform cubic B-spline at each pixel; rows sum to one."""
    places = (torch.arange(length, dtype=torch.float64) + 0.5) / spacing
    first = places.floor().long()
    t = places - first
    weights = torch.stack(
        [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ],
        dim=1,
    )
    matrix = torch.zeros(length, int(first[-1]) + 4, dtype=torch.float64)
    return matrix.scatter_(1, first[:, None] + torch.arange(4), weights)


def _warp(images: Tensor, flow: Tensor) -> Tensor:
    """Reads each pixel from where ``flow`` (B, 2: down and right, H, W), in pixels, points."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None] + flow[:, 0]
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device) + flow[:, 1]
    grid = torch.stack(
        [(2.0 * columns + 1.0) / width - 1.0, (2.0 * rows + 1.0) / height - 1.0], dim=-1
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
