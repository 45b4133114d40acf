"""Structural similarity of batches: what perceptual attacks are bounded by."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.baselines.blur import gaussian_kernel

__all__ = ["MIN_SIDE_PX", "local_deviation", "ssim"]

_RADIUS_PX, _SIGMA_PX = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2
MIN_SIDE_PX = 2 * _RADIUS_PX + 1


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
