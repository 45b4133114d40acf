"""What attacks are bounded by, and how their floats become bytes without leaving that bound.

Beside the budgets stands the structural similarity of batches, which one of them bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.baselines.filters import gaussian_kernel
from codefend.models.quantise import dequantise, quantise

__all__ = ["MIN_SIDE_PX", "Ball", "Shift", "Similarity", "Window", "local_deviation", "ssim"]

_RADIUS_PX, _SIGMA_PX = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2
MIN_SIDE_PX = 2 * _RADIUS_PX + 1


@dataclass(frozen=True, slots=True)
class Ball:
    """No pixel moves by more than ``epsilon``, a fraction of the range (l-infinity)."""

    epsilon: float

    def quantise(self, adversarial: Tensor, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.quantise``: towards the clean image where rounding would leave the ball."""
        levels = (adversarial.detach().cpu().double() * 255.0).round().permute(0, 2, 3, 1).numpy()
        center = clean.astype(np.int64)
        inside = np.clip(levels.astype(np.int64), center - self._radius, center + self._radius)
        return np.clip(inside, 0, 255).astype(np.uint8)

    def admits(self, attacked: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.admits``."""
        moved = np.abs(attacked.astype(np.int64) - clean.astype(np.int64))
        return np.asarray(moved.max(axis=(1, 2, 3)) <= self._radius)

    @property
    def _radius(self) -> int:
        return int(self.epsilon * 255.0 + 1e-6)


@dataclass(frozen=True, slots=True)
class Window:
    """Every changed pixel lies in one rectangle of at most ``area``, a share of the image."""

    area: float

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        if not 0.0 < self.area <= 1.0:
            raise ValueError(f"an area must be a share of the image, got {self.area}")

    def quantise(self, adversarial: Tensor, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.quantise``; pixels outside the rectangle are whole levels already."""
        return quantise(adversarial.detach()).cpu().numpy()

    def admits(self, attacked: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.admits``."""
        changed = (attacked != clean).any(axis=3)
        num_rows, num_columns = _extent(changed.any(axis=2)), _extent(changed.any(axis=1))
        return np.asarray(num_rows * num_columns <= self.area * changed[0].size)


def _extent(occupied: np.ndarray) -> np.ndarray:
    """How many places (B, N) bool spans, from the first to the last: (B,)."""
    length = occupied.shape[1]
    spanned = length - occupied.argmax(axis=1) - occupied[:, ::-1].argmax(axis=1)
    return np.where(occupied.any(axis=1), spanned, 0)


@dataclass(frozen=True, slots=True)
class Similarity:
    """One minus the structural similarity to the clean image is at most ``distance``."""

    distance: float

    def __post_init__(self) -> None:
        """Refuses a distance that SSIM cannot have."""
        if not 0.0 < self.distance < 1.0:
            raise ValueError(f"a distance must lie between 0 and 1, got {self.distance}")

    def quantise(self, adversarial: Tensor, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.quantise``: nearer to the clean image, until rounding leaves it inside."""
        center = dequantise(torch.from_numpy(clean))
        moved = adversarial.detach().cpu().float() - center
        rounded = quantise(center + moved).numpy()
        for scale in np.linspace(0.98, 0.0, 50):
            outside = ~self.admits(rounded, clean)
            if not outside.any():
                break
            rounded[outside] = quantise((center + float(scale) * moved)[outside]).numpy()
        return rounded

    def admits(self, attacked: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.admits``."""
        pair = (dequantise(torch.from_numpy(pixels)) for pixels in (attacked, clean))
        return np.asarray((1.0 - ssim(*pair) <= self.distance).numpy())


@dataclass(frozen=True, slots=True)
class Shift:
    """Every pixel comes from a place at most ``radius_px`` away along each axis.

    The flow is not seen in the upload. What is seen, and what ``admits`` asks: each pixel lies
    between the least and the greatest value of its neighbourhood in the clean image.
    """

    radius_px: float

    def __post_init__(self) -> None:
        """Refuses a negative radius."""
        if self.radius_px < 0:
            raise ValueError(f"a radius must not be negative, got {self.radius_px}")

    def quantise(self, adversarial: Tensor, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.quantise``; a mean of whole levels rounds to between them."""
        return quantise(adversarial.detach()).cpu().numpy()

    def admits(self, attacked: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """See ``Budget.admits``."""
        reach = math.ceil(self.radius_px)
        images, center = (
            torch.from_numpy(pixels).permute(0, 3, 1, 2).float() for pixels in (attacked, clean)
        )
        highest = F.max_pool2d(center, 2 * reach + 1, 1, reach)
        lowest = -F.max_pool2d(-center, 2 * reach + 1, 1, reach)
        inside = (images >= lowest) & (images <= highest)
        return np.asarray(inside.flatten(1).all(dim=1).numpy())


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Wang et al. 2004, "Image Quality Assessment", equation 13, over an 11-pixel Gaussian window.

    Args:
        images: (B, 3, H, W) float in [0, 1], at least 11 pixels high and wide.
        references: likewise.

    Returns:
        (B,) float64: the mean over channels and over windows that lie within the image.
    """
    x, y = images.double(), references.double()
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    var_x = _local_mean(x.square()) - mean_x.square()
    var_y = _local_mean(y.square()) - mean_y.square()
    covariance = _local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return (luminance * structure).flatten(1).mean(dim=1)


def local_deviation(images: Tensor) -> Tensor:
    """Standard deviation around each pixel, (B, 3, H, W), never below what SSIM takes for flat."""
    padded = F.pad(images, (_RADIUS_PX,) * 4, mode="reflect")
    variance = _local_mean(padded.square()) - _local_mean(padded).square()
    return (variance.clamp_min(0.0) + _C2).sqrt()


def _local_mean(images: Tensor) -> Tensor:
    """Gaussian means over the windows that lie within the image."""
    rows, columns = (_window(length).to(images) for length in images.shape[-2:])
    return rows @ images @ columns.T


@cache
def _window(length: int) -> Tensor:
    """(length - 10, length): the Gaussian window along one axis as a banded matrix."""
    kernel = gaussian_kernel(_SIGMA_PX, _RADIUS_PX).double()
    rows = torch.zeros(length - len(kernel) + 1, length, dtype=torch.float64)
    for offset, weight in enumerate(kernel):
        rows.diagonal(offset)[: len(rows)].fill_(weight)
    return rows
