"""The bilateral filter: Tomasi & Manduchi 1998, "Bilateral Filtering for Gray and Color Images"."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence

__all__ = ["bilateral"]

_RADIUS_PX = 3
_SIGMA_PX = 1.5


def bilateral(sigma_level: float) -> Defence:
    """Averages each pixel with those of a 7 × 7 window that are near in place and in colour.

    Args:
        sigma_level: standard deviation of the colour weights, a fraction of the range.

    Raises:
        ValueError: where it is not positive.
    """
    if sigma_level <= 0:
        raise ValueError(f"sigma_level must be positive, got {sigma_level}")

    def apply(images: Tensor, generator: Generator) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, (_RADIUS_PX,) * 4, mode="reflect")
        total = torch.zeros_like(images)
        weights = torch.zeros_like(images[:, :1])
        for down in range(2 * _RADIUS_PX + 1):
            for right in range(2 * _RADIUS_PX + 1):
                shifted = padded[..., down : down + height, right : right + width]
                place = (down - _RADIUS_PX) ** 2 + (right - _RADIUS_PX) ** 2
                colour = (shifted - images).square().sum(dim=1, keepdim=True)
                exponent = -place / (2 * _SIGMA_PX**2) - colour / (2 * sigma_level**2)
                weight = exponent.exp()
                total = total + weight * shifted
                weights = weights + weight
        return total / weights

    return Defence("bilateral", f"sigma_level={sigma_level:g}", apply, passages={"exact": apply})
