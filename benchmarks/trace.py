"""The images that benchmarks send: sizes evenly mixed, the same for service and engine."""

import io
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["SyntheticPicture", "make_picture", "mixed_trace"]

SIZES = ((128, 128), (480, 640), (512, 512), (768, 1024))
NOISE_LEVELS = 4.0


@dataclass(frozen=True, slots=True)
class SyntheticPicture:
    """One upload: its pixels (H, W, 3) uint8, and the JPEG that is sent."""

    pixels: NDArray[np.uint8]
    jpeg: bytes

    @property
    def num_pixels(self) -> int:
        """Pixels of the image, without padding."""
        height, width = self.pixels.shape[:2]
        return int(height) * int(width)


@cache
def make_picture(height: int, width: int) -> SyntheticPicture:
    """A smooth picture with a little noise, about as compressible as a photograph."""
    random_numbers = np.random.default_rng(0)
    coarse = random_numbers.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + random_numbers.normal(0, NOISE_LEVELS, smooth.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    return SyntheticPicture(pixels, buffer.getvalue())


def mixed_trace(
    seed: int = 0, sizes: Sequence[tuple[int, int]] = SIZES
) -> Iterator[SyntheticPicture]:
    """Endless pictures: as many in a row as there are sizes hold each once, in random order."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible order, not a secret
    for _ in itertools.count():
        yield from (make_picture(*size) for size in chance.sample(sizes, len(sizes)))
