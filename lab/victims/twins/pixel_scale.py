"""The last step of every image processor: levels to the numbers that a network was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["PixelScale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelScale:
    """Rescales, then normalises.

    Attributes:
        rescale_factor: what whole levels in [0, 255] are multiplied by.
        mean: per-channel mean, subtracted after rescaling.
        std: per-channel standard deviation, divided by last.
    """

    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_processor(cls, image_processor: Any) -> PixelScale:
        """Reads the settings of any stock image processor."""
        rescale = image_processor.rescale_factor if image_processor.do_rescale else 1.0
        normalize = bool(image_processor.do_normalize)
        return cls(
            rescale_factor=float(rescale),
            mean=tuple(image_processor.image_mean) if normalize else (0.0, 0.0, 0.0),
            std=tuple(image_processor.image_std) if normalize else (1.0, 1.0, 1.0),
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """(..., 3, h, w) levels in [0, 255] to the network's numbers, same shape and dtype."""
        mean = _per_channel(self.mean, pixels.dtype, pixels.device)
        return (pixels * self.rescale_factor - mean) / _per_channel(
            self.std, pixels.dtype, pixels.device
        )


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, 1, 1); kept, because a copy to a GPU at every step would make the attack wait."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]
