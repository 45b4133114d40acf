"""JPEG and bit-depth reduction: Guo et al. 2018, "Countering Adversarial Images using Input…"."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.gradients import straight_through, with_gradient_of
from codefend.lab.baselines.smooth_jpeg import smooth_jpeg
from codefend.models.quantise import dequantise, quantise

__all__ = ["bit_depth", "jpeg"]


def jpeg(quality: int) -> Defence:
    """Encodes as JPEG and decodes again.

    Args:
        quality: Pillow's scale, 1 to 95.

    Raises:
        ValueError: for a quality outside the scale.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"quality must be in 1..95, got {quality}")
    apply = partial(_per_image, partial(_jpeg, quality))

    def surrogate(images: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            decoded = apply(images.detach(), generator)
        return with_gradient_of(decoded, smooth_jpeg(images, quality))

    passages = {"bpda": straight_through(apply), "surrogate": surrogate}
    return Defence("jpeg", f"quality={quality}", apply, passages=passages)


def bit_depth(bits: int) -> Defence:
    """Keeps so many bits a channel: Xu et al. 2018, "Feature Squeezing", section II-A.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: for another number of bits.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be in 1..8, got {bits}")
    top = float(2**bits - 1)

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return torch.round(images * top) / top

    return Defence("bit_depth", f"bits={bits}", apply, passages={"bpda": straight_through(apply)})


def _jpeg(quality: int, pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image)


def _per_image(
    change: Callable[[np.ndarray], np.ndarray], images: Tensor, generator: Generator
) -> Tensor:
    changed = [change(pixels) for pixels in quantise(images).cpu().numpy()]
    return dequantise(torch.from_numpy(np.stack(changed)), images.dtype).to(images.device)
