"""What the service does with large images, as defences: scaled by the mean, purified in tiles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence, defend
from codefend.models.quantise import dequantise, quantise
from codefend.models.shrink import shrink
from codefend.models.tiles import Tiling

__all__ = ["area", "in_tiles"]


def area(side_px: int) -> Defence:
    """Scales down to a longest side, as ``CODEFEND_PURIFY_SIDE_PX`` does.

    Raises:
        ValueError: for a side below one pixel.
    """
    if side_px < 1:
        raise ValueError(f"a side has at least one pixel, not {side_px}")

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return _of_pixels([shrink(pixels, side_px) for pixels in _pixels_of(images)], images)

    return Defence("area", f"side={side_px}", apply)


def in_tiles(defence: Defence, tiling: Tiling) -> Defence:
    """The same defence, but large images go through it in tiles.

    Args:
        defence: what each tile goes through.
        tiling: how images are cut, and which are.
    """

    def apply(images: Tensor, generator: Generator) -> Tensor:
        def purify(tile: np.ndarray) -> np.ndarray:
            seed = int(torch.randint(1 << 31, (), generator=generator))
            return defend(defence, [tile], seed=seed)[0]

        return _of_pixels([tiling.apply(purify, pixels) for pixels in _pixels_of(images)], images)

    name = f"{defence.name}-in-tiles"
    setting = f"{defence.setting} {tiling.side_px}/{tiling.overlap_px} above {tiling.whole_px}"
    return Defence(name, setting, apply, is_random=defence.is_random)


def _pixels_of(images: Tensor) -> np.ndarray:
    return quantise(images).cpu().numpy()


def _of_pixels(pictures: list[np.ndarray], like: Tensor) -> Tensor:
    return dequantise(torch.from_numpy(np.stack(pictures))).to(like)
