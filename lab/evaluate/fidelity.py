"""How near a defended image is to the clean one: PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from codefend.lab.attacks.budgets import ssim
from codefend.models.quantise import dequantise

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
    psnr_db, similarity = [], []
    for image, reference in zip(images, references, strict=True):
        pair = dequantise(torch.from_numpy(np.stack([image, reference]))).double()
        psnr_db.append(_psnr_db(pair[:1], pair[1:]))
        similarity.append(float(ssim(pair[:1], pair[1:])))
    return psnr_db, similarity


def _psnr_db(image: Tensor, reference: Tensor) -> float:
    error = float((image - reference).square().mean())
    return _NO_ERROR_DB if error == 0.0 else min(_NO_ERROR_DB, -10.0 * float(np.log10(error)))
