"""Pillow's resampling with gradients; the preprocessing of victims uses it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

__all__ = ["resize_like_pillow"]


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(1.0 - np.abs(x), 0.0))


def _bicubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


_KERNELS: dict[Resampling, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    Resampling.BILINEAR: (_bilinear, 1.0),
    Resampling.BICUBIC: (_bicubic, 2.0),
    Resampling.LANCZOS: (_lanczos, 3.0),
}


@lru_cache(maxsize=64)
def _resample_matrix(num_in: int, num_out: int, resample: Resampling) -> Tensor:
    """The weights (num_out, num_in) with which Pillow filters one axis."""
    kernel, support = _KERNELS[resample]
    scale = num_in / num_out
    filter_scale = max(scale, 1.0)
    reach = support * filter_scale
    matrix = np.zeros((num_out, num_in))
    for row in range(num_out):
        center = (row + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        last = min(int(center + reach + 0.5), num_in)
        weights = kernel((np.arange(first, last) - center + 0.5) / filter_scale)
        matrix[row, first:last] = weights / weights.sum()
    return torch.from_numpy(matrix)


def resize_like_pillow(
    pixels: Tensor, height: int, width: int, resample: Resampling = Resampling.BICUBIC
) -> Tensor:
    """Resizes with ``PIL.Image.resize`` itself; gradients are those of its linear filters.

    Pillow rounds to whole levels before, between and behind its two passes, and which pass comes
    first differs by version and size. So its own result is the value, and the roundings pass
    gradients straight through.

    Args:
        pixels: (B, C, H, W) float in [0, 255].
        height: height of the result.
        width: width of the result.
        resample: bilinear, bicubic or Lanczos.

    Returns:
        (B, C, height, width), of the same dtype, whole numbers in [0, 255].

    Raises:
        ValueError: for a filter other than the three.
    """
    if resample not in _KERNELS:
        raise ValueError(f"no differentiable version of Pillow's filter {resample!r}")
    exact = _resize_with_pillow(pixels.detach(), height, width, resample)
    if not pixels.requires_grad:
        return exact
    rows = _resample_matrix(pixels.shape[-2], height, resample).to(pixels)
    columns = _resample_matrix(pixels.shape[-1], width, resample).to(pixels)
    linear = rows @ pixels @ columns.T
    return linear + (exact - linear).detach()


def _resize_with_pillow(pixels: Tensor, height: int, width: int, resample: Resampling) -> Tensor:
    levels = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    resized = [
        np.asarray(Image.fromarray(image).resize((width, height), resample)) for image in levels
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(pixels)
