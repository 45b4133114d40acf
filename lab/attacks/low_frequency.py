"""Low-frequency attack: Sharma et al. 2019, "On the Effectiveness of Low Frequency…"."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import best_of, checked, climb, uniform

__all__ = ["LowFrequency", "low_pass"]

_NUM_PROJECTIONS = 15


def low_pass(images: Tensor, band: float) -> Tensor:
    """The share ``band`` of the lowest DCT-II frequencies of each axis; the others are zero.

    Args:
        images: (B, C, H, W) float.
        band: share of the frequencies that are kept, at least one.
    """
    rows = _projection(images.shape[-2], band).to(images)
    columns = _projection(images.shape[-1], band).to(images)
    return rows @ images @ columns


def _projection(length: int, band: float) -> Tensor:
    """(length, length): the symmetric projection onto the lowest frequencies of one axis."""
    num_kept = max(1, round(band * length))
    places = torch.arange(length, dtype=torch.float64) + 0.5
    frequencies = torch.arange(num_kept, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi * frequencies * places / length) * math.sqrt(2.0 / length)
    basis[0] /= math.sqrt(2.0)
    return basis.T @ basis


@dataclass(frozen=True, slots=True, kw_only=True)
class LowFrequency:
    """PGD whose perturbation has low DCT frequencies alone, in the l-infinity ball.

    The mask of section 3 (DCT_Low) applied to gradients and, because a sign and a clip bring high
    frequencies back, to the perturbation after each step. Ball and band are projected onto in turn:
    once leaves the ball half empty (a root mean square of 3.0 levels at 8/255; 4.9 in turn). What
    then still stands out is shrunk as a whole. Deviations: no momentum, the best iterate is
    returned. Where the range of pixel values cuts the perturbation off, higher frequencies appear.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        steps: gradient steps in each restart.
        step_size: length of a step; where None, 10 epsilon / steps: the band takes most of a step.
        restarts: independent runs; each image keeps its best.
        band: share of the frequencies along each axis that the perturbation has.
        bounds: range of pixel values.
    """

    epsilon: float
    steps: int
    step_size: float | None = None
    restarts: int = 1
    band: float = 0.125
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(epsilon=self.epsilon, steps=self.steps, restarts=self.restarts)
        if not 0.0 < self.band <= 1.0:
            raise ValueError(f"a band must be a share of the frequencies, got {self.band}")

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``."""
        run = partial(self._run, images.detach(), objective, generator)
        return best_of(run for _ in range(self.restarts))

    def _run(
        self, clean: Tensor, objective: Objective, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        step_size = 10 * self.epsilon / self.steps if self.step_size is None else self.step_size

        def render(delta: Tensor) -> Tensor:
            return self.bounds.project(clean + delta, clean, self.epsilon)

        def step(delta: Tensor, gradients: Tensor) -> Tensor:
            moved = delta + step_size * low_pass(gradients, self.band).sign()
            for _ in range(_NUM_PROJECTIONS):
                moved = low_pass(moved.clamp(-self.epsilon, self.epsilon), self.band)
            return self._shrink(moved)

        noise = low_pass(uniform(clean, generator), self.band)
        start = self._shrink(noise * (self.epsilon / _peak(noise)))
        return climb(start, render, step, objective, steps=self.steps)

    def _shrink(self, delta: Tensor) -> Tensor:
        return delta * (self.epsilon / _peak(delta)).clamp_max(1.0)


def _peak(delta: Tensor) -> Tensor:
    """(B, 1, 1, 1): the l-infinity norm of each perturbation, never zero."""
    return delta.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
