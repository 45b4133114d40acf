"""JPEG and bit-depth reduction: Guo et al. 2018, "Countering Adversarial Images using Input…".

JPEG comes with gradients too: what a white-box attacker climbs where the codec itself has none
(Shin & Song 2017, "JPEG-resistant Adversarial Images": every step but rounding is linear).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence, straight_through, with_gradient_of
from codefend.models.codec import chroma_subsampling, through_jpeg
from codefend.models.quantise import dequantise, quantise

__all__ = [
    "bit_depth",
    "jpeg",
    "smooth_jpeg",
]


def jpeg(quality: int) -> Defence:
    """Encodes as the service does where it forwards JPEGs, and decodes again.

    Args:
        quality: Pillow's scale, 1 to 95.

    Raises:
        ValueError: for a quality outside the scale.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"quality must be in 1..95, got {quality}")
    apply = partial(_per_image, partial(through_jpeg, quality=quality))

    def by_proxy(images: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            decoded = apply(images.detach(), generator)
        return with_gradient_of(decoded, smooth_jpeg(images, quality))

    gradient_paths = {"bpda": straight_through(apply), "surrogate": by_proxy}
    return Defence("jpeg", f"quality={quality}", apply, gradient_paths=gradient_paths)


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

    return Defence(
        "bit_depth", f"bits={bits}", apply, gradient_paths={"bpda": straight_through(apply)}
    )


def _per_image(
    change: Callable[[np.ndarray], np.ndarray], images: Tensor, generator: Generator
) -> Tensor:
    changed = [change(pixels) for pixels in quantise(images).cpu().numpy()]
    return dequantise(torch.from_numpy(np.stack(changed)), images.dtype).to(images.device)


_BLOCK = 8
_TO_YCBCR = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ],
    dtype=torch.float64,
)  # JFIF 1.02, without its offset of 128


def smooth_jpeg(images: Tensor, quality: int) -> Tensor:
    """Encodes and decodes approximately, differentiably, with the colours that `jpeg` keeps.

    Rounding is x -> round(x) + (x - round(x))^3 (their equation 2), whose slope is that of neither
    the identity nor the staircase: small where a coefficient sits on a level, largest between two.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        quality: Pillow's scale, 1 to 95.

    Returns:
        The same shape, in [0, 1].
    """
    height, width = images.shape[-2:]
    # Pixels a sample of colour, in each direction.
    apart = 1 if chroma_subsampling(quality) == "4:4:4" else 2
    padding = (0, -width % (apart * _BLOCK), 0, -height % (apart * _BLOCK))
    padded = F.pad(images * 255.0, padding, mode="replicate")
    to_ycbcr = _TO_YCBCR.to(padded)
    planes = torch.einsum("ij,bjhw->bihw", to_ycbcr, padded)
    luminance, chrominance = _tables(quality)
    bright = _quantise_plane(planes[:, :1] - 128.0, luminance) + 128.0
    colour = _quantise_plane(F.avg_pool2d(planes[:, 1:], apart), chrominance)
    colour = F.interpolate(colour, scale_factor=apart, mode="bilinear", align_corners=False)
    decoded = torch.einsum(
        "ij,bjhw->bihw", torch.linalg.inv(to_ycbcr), torch.cat([bright, colour], dim=1)
    )
    return (decoded[..., :height, :width] / 255.0).clamp(0.0, 1.0)


def _quantise_plane(planes: Tensor, table: Tensor) -> Tensor:
    """(B, C, H, W) levels around zero, through the quantised cosine transform of their blocks."""
    batch, channels, height, width = planes.shape
    shape = (batch, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    blocks = planes.reshape(shape).transpose(3, 4)
    cosines = _cosines().to(planes)
    steps = table.to(planes)
    coefficients = cosines @ blocks @ cosines.T / steps
    rounded = coefficients.detach().round()
    restored = cosines.T @ ((rounded + (coefficients - rounded) ** 3) * steps) @ cosines
    return restored.transpose(3, 4).reshape(planes.shape)


@cache
def _cosines() -> Tensor:
    """(8, 8): the orthonormal discrete cosine transform of type II."""
    places = torch.arange(_BLOCK, dtype=torch.float64)
    matrix = torch.cos(math.pi / _BLOCK * (places[None] + 0.5) * places[:, None])
    matrix *= math.sqrt(2.0 / _BLOCK)
    matrix[0] /= math.sqrt(2.0)
    return matrix


@cache
def _tables(quality: int) -> tuple[Tensor, Tensor]:
    """The steps (8, 8) of luminance and chrominance, as Pillow itself writes them."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as image:
        tables: dict[int, list[int]] = image.quantization  # type: ignore[attr-defined]
    luminance, chrominance = (
        torch.tensor(tables[number], dtype=torch.float64).reshape(_BLOCK, _BLOCK)
        for number in (0, 1)
    )
    return luminance, chrominance
