"""Attacks that climb in other parameters than pixels, or under another bound than l-infinity.

Frequencies, the pixels of a patch, what SSIM hides, and a flow that moves pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from codefend.lab.attacks.budgets import (
    MIN_SIDE_PX,
    Shift,
    Similarity,
    Window,
    local_deviation,
    ssim,
)
from codefend.lab.attacks.gradient import Ascent, BallAttack, GradientAttack, uniform
from codefend.lab.attacks.interface import Objective

__all__ = ["AdversarialPatch", "LowFrequency", "PerceptualAttack", "SpatialFlow", "low_pass"]

_NUM_PROJECTIONS = 15
_NUM_BISECTIONS = 12


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


@dataclass(frozen=True, kw_only=True)
class LowFrequency(BallAttack):
    """PGD whose perturbation has low DCT frequencies alone, in the l-infinity ball.

    Sharma et al. 2019, "On the Effectiveness of Low Frequency…": the mask of section 3 (DCT_Low)
    applied to gradients and, because a sign and a clip bring high frequencies back, to the
    perturbation after each step. Ball and band are projected onto in turn: once leaves the ball
    half empty (a root mean square of 3.0 levels at 8/255; 4.9 in turn). What then still stands out
    is shrunk as a whole. Deviations: no momentum, the best iterate is returned. Where the range of
    pixel values cuts the perturbation off, higher frequencies appear.

    Attributes:
        band: share of the frequencies along each axis that the perturbation has.
    """

    band: float = 0.125
    STEPS_TO_CROSS: ClassVar[float] = 10.0  # the band takes most of a step

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        super().__post_init__()
        if not 0.0 < self.band <= 1.0:
            raise ValueError(f"a band must be a share of the frequencies, got {self.band}")

    def begin(self, clean: Tensor, generator: Generator | None) -> Ascent:
        """See ``GradientAttack.begin``: parameters are the perturbation."""
        step_size = self.step_length(self.epsilon)

        def render(delta: Tensor) -> Tensor:
            return self.bounds.project(clean + delta, clean, self.epsilon)

        def step(delta: Tensor, gradients: Tensor) -> Tensor:
            moved = delta + step_size * low_pass(gradients, self.band).sign()
            for _ in range(_NUM_PROJECTIONS):
                moved = low_pass(moved.clamp(-self.epsilon, self.epsilon), self.band)
            return self._shrink(moved)

        noise = low_pass(uniform(clean, generator), self.band)
        return Ascent(self._shrink(noise * (self.epsilon / _peak(noise))), step, render)

    def _shrink(self, delta: Tensor) -> Tensor:
        return delta * (self.epsilon / _peak(delta)).clamp_max(1.0)


def _peak(delta: Tensor) -> Tensor:
    """(B, 1, 1, 1): the l-infinity norm of each perturbation, never zero."""
    return delta.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True, kw_only=True)
class AdversarialPatch(GradientAttack):
    """Signed gradient ascent on the pixels of one square, whatever their magnitude.

    Karmon et al. 2018, "LaVAN: Localized and Visible Adversarial Noise". Deviations: steps are
    signed and projected onto the range, as in PGD, and the best iterate is returned; one patch an
    image, not one for all (Brown et al. 2017, "Adversarial Patch"). Where places are random, each
    restart has a new one.

    Attributes:
        area: share of the image that the square may cover.
        place: where the square lies, as shares (down, right) of the room it has; random for each
            image where None.
    """

    area: float = 0.05
    place: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        super().__post_init__()
        if self.place is not None and not all(0.0 <= share <= 1.0 for share in self.place):
            raise ValueError(f"a place must be two shares in [0, 1], got {self.place}")
        Window(self.area)

    @property
    def budget(self) -> Window:
        """See ``Budgeted``."""
        return Window(self.area)

    def begin(self, clean: Tensor, generator: Generator | None) -> Ascent:
        """See ``GradientAttack.begin``: parameters are a whole image of patch pixels."""
        low, high = self.bounds.low, self.bounds.high
        step_size = self.step_length(high - low)
        mask = self._mask(clean, generator)

        def render(patch: Tensor) -> Tensor:
            return torch.where(mask, patch, clean)

        def step(patch: Tensor, gradients: Tensor) -> Tensor:
            return self.bounds.clip(patch + step_size * gradients.sign())

        start = low + (high - low) * (uniform(clean, generator) + 1.0) / 2.0
        return Ascent(start, step, render)

    def _mask(self, clean: Tensor, generator: Generator | None) -> Tensor:
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


@dataclass(frozen=True, kw_only=True)
class PerceptualAttack(GradientAttack):
    """Gradient ascent under a bound on one minus SSIM; single pixels may move as far as they like.

    Laidlaw et al. 2021, "Perceptual Adversarial Robustness": like PPGD (section 4), each step is
    followed by a bisection along the line to the clean image. Deviations: the distance is SSIM's
    (no weights to download), not LPIPS's; steps are signed and as long as the image is uneven
    around each pixel, where SSIM hides them; the best iterate is returned. A step's mean length is
    2.5 / steps of how far random signs of the same shape may go, unless ``step_size`` says another.

    Attributes:
        distance: greatest one minus SSIM, whose constants are those of the range [0, 1].
    """

    distance: float = 0.05

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        super().__post_init__()
        Similarity(self.distance)

    @property
    def budget(self) -> Similarity:
        """See ``Budgeted``."""
        return Similarity(self.distance)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``.

        Raises:
            ValueError: for images smaller than SSIM's window.
        """
        if min(images.shape[-2:]) < MIN_SIDE_PX:
            raise ValueError(f"images must have sides of at least {MIN_SIDE_PX} pixels")
        return super().__call__(images, objective, generator=generator)

    def begin(self, clean: Tensor, generator: Generator | None) -> Ascent:
        """See ``GradientAttack.begin``: parameters are the perturbation."""
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

        return Ascent(start, step, render)

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


@dataclass(frozen=True, kw_only=True)
class SpatialFlow(GradientAttack):
    """Moves pixels instead of changing them: a smooth flow field, each image its own.

    Xiao et al. 2018, "Spatially Transformed Adversarial Examples" (stAdv). Pixels are read
    bilinearly from where the flow points (equation 1). Deviations: the flow is smooth because it is
    a cubic B-spline of few knots, not through a loss of its own (equation 3); its length is
    bounded, because a spline never leaves the range of its knots; signed steps instead of L-BFGS.

    Attributes:
        radius_px: longest way of a pixel along each axis; a step's default goes by it.
        spacing_px: from one knot to the next; the flow is smooth at this scale.
    """

    radius_px: float = 2.0
    spacing_px: int = 8

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        super().__post_init__()
        Shift(self.radius_px)
        if self.spacing_px < 1:
            raise ValueError(f"knots must be at least a pixel apart, got {self.spacing_px}")

    @property
    def budget(self) -> Shift:
        """See ``Budgeted``."""
        return Shift(self.radius_px)

    def begin(self, clean: Tensor, generator: Generator | None) -> Ascent:
        """See ``GradientAttack.begin``: parameters are the knots, in pixels."""
        radius, step_size = self.radius_px, self.step_length(self.radius_px)
        down, across = (_spline(side, self.spacing_px).to(clean) for side in clean.shape[-2:])

        def render(knots: Tensor) -> Tensor:
            return _warp(clean, down @ knots @ across.T)

        def step(knots: Tensor, gradients: Tensor) -> Tensor:
            return (knots + step_size * gradients.sign()).clamp(-radius, radius)

        empty = clean.new_zeros(len(clean), 2, down.shape[1], across.shape[1])
        return Ascent(radius * uniform(empty, generator), step, render)


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
