"""What happens to images on the web without anybody's bad intent; no detector should mind."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

__all__ = ["ALTERATIONS", "alter_benignly", "gaussian", "recompress", "resize", "uniform"]

Pixels = np.ndarray
"""(H, W, 3) uint8."""


def recompress(pixels: Pixels, quality: int) -> Pixels:
    """Through JPEG at a quality of Pillow's scale."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def gaussian(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """Sensor noise: normal, its deviation in levels of 255."""
    return _rounded(pixels + rng.normal(0.0, deviation, pixels.shape))


def uniform(pixels: Pixels, radius: float, rng: np.random.Generator) -> Pixels:
    """Noise in the l-infinity ball of an attack that attacks nothing, in levels of 255."""
    return _rounded(pixels + rng.uniform(-radius, radius, pixels.shape))


def resize(pixels: Pixels, scale: float) -> Pixels:
    """To another size and back to its own, so that it has been resampled twice."""
    height, width = pixels.shape[:2]
    other = (max(8, round(width * scale)), max(8, round(height * scale)))
    image = Image.fromarray(pixels).resize(other, Image.Resampling.BICUBIC)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _brighten(pixels: Pixels, gain: float, offset: float) -> Pixels:
    return _rounded((pixels - 127.5) * gain + 127.5 + offset)


ALTERATIONS: Mapping[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "jpeg": lambda pixels, rng: recompress(pixels, int(rng.integers(30, 96))),
    "gaussian": lambda pixels, rng: gaussian(pixels, rng.uniform(0.5, 10.0), rng),
    "uniform": lambda pixels, rng: uniform(pixels, rng.uniform(2.0, 16.0), rng),
    "resize": lambda pixels, rng: resize(pixels, float(np.exp(rng.uniform(-0.9, 0.7)))),
    "brighten": lambda pixels, rng: _brighten(pixels, rng.uniform(0.7, 1.3), rng.uniform(-25, 25)),
}


def alter_benignly(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """One alteration in three cases of four, two in a row in the fourth; strengths at random.

    Args:
        pixels: (H, W, 3) uint8.
        rng: decides all.

    Returns:
        The same shape.
    """
    names = list(ALTERATIONS)
    for name in rng.choice(names, size=1 if rng.random() < 0.75 else 2, replace=False):
        pixels = ALTERATIONS[str(name)](pixels, rng)
    return pixels


def _rounded(levels: np.ndarray) -> Pixels:
    return levels.round().clip(0, 255).astype(np.uint8)
