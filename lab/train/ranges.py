"""What a purifier's convolutions read, measured: what a CPU needs to run them in 8-bit integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codefend.lab.progress import progress
from codefend.lab.train.detector import calibration_images
from codefend.lab.train.publish import publish_ranges
from codefend.lab.world.compose import World
from codefend.models.purifier.eight_bit import measured_ranges
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.ranges import write_ranges
from codefend.models.quantise import dequantise

__all__ = ["measure_ranges"]

_BATCH = 16
_ATTACK = 16 / 255


def measure_ranges(purifier: Path, world: World, num_images: int, seed: int) -> None:
    """Writes the ranges beside the weights and into their manifest.

    They are those of validation scenes, photos and text.

    Each picture comes clean and with random signs of 16/255, as large as any attack is tried here.

    Args:
        purifier: Directory of a pixel purifier of one step.
        world: Where pictures are from.
        num_images: How many; half as many again are altered benignly.
        seed: Of pictures and noise.

    Raises:
        ValueError: The purifier is of another kind.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = calibration_images(world, num_images, seed=seed)
    batches = [
        group[start : start + _BATCH] for group in groups for start in range(0, len(group), _BATCH)
    ]

    def pictures() -> Iterator[Tensor]:
        for batch in progress(batches, desc="ranges", unit="batch"):
            clean = dequantise(torch.from_numpy(np.stack(batch)))
            signs = torch.randint(2, clean.shape, generator=generator) * 2 - 1
            yield clean
            yield (clean + _ATTACK * signs).clamp(0, 1)

    ranges = measured_ranges(load_purifier(purifier), pictures(), generator)
    write_ranges(purifier, ranges)
    publish_ranges(purifier)
