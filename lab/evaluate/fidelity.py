"""How near a defended image is to the clean one: PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lab.baselines.blur import gaussian_kernel
from models.quantise import dequantise

__all__ = ["fidelity"]

_NO_ERROR_DB = 100.0  # reported where two images are equal


def fidelity(
    images: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> tuple[list[float], list[float]]:
    """PSNR in dB (100 where nothing differs) and SSIM of each image against its reference.

    Args:
        images: (H, W, 3) uint8 each, at least 11 pixels high and wide.
        references: as many, of the same sizes.
    """
    psnr, ssim = [], []
    for image, reference in zip(images, references, strict=True):
        pair = dequantise(torch.from_numpy(np.stack([image, reference]))).double()
        psnr.append(_psnr_db(pair[:1], pair[1:]))
        ssim.append(_ssim(pair[:1], pair[1:]))
    return psnr, ssim


def _psnr_db(image: Tensor, reference: Tensor) -> float:
    error = float((image - reference).square().mean())
    return _NO_ERROR_DB if error == 0.0 else min(_NO_ERROR_DB, -10.0 * float(np.log10(error)))


def _ssim(image: Tensor, reference: Tensor) -> float:
    """Wang et al. 2004, equation 13: an 11-pixel Gaussian window, sigma 1.5, mean over channels."""
    rows, columns = _window(image.shape[-2]), _window(image.shape[-1])

    def local(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    mean_x, mean_y = local(image), local(reference)
    var_x = local(image.square()) - mean_x.square()
    var_y = local(reference.square()) - mean_y.square()
    covariance = local(image * reference) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


@cache
def _window(length: int) -> Tensor:
    """(length - 10, length): the Gaussian window along one axis as a banded matrix."""
    kernel = gaussian_kernel(1.5, 5).double()
    rows = torch.zeros(length - len(kernel) + 1, length, dtype=torch.float64)
    for offset, weight in enumerate(kernel):
        rows.diagonal(offset)[: len(rows)].fill_(weight)
    return rows
