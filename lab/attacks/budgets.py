"""What attacks are bounded by, and how their floats become bytes without leaving that bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.attacks.similarity import ssim
from codefend.models.quantise import dequantise, quantise

__all__ = ["Ball", "Shift", "Similarity", "Window"]


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
