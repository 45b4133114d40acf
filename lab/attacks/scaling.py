"""Attacks on scaling: a picture that shows another one as soon as it is made smaller.

Xiao et al. 2019, "Seeing is Not Believing: Camouflage Attacks on Image Scaling Algorithms" (USENIX
Security): most filters look at few of the pixels, so that the others may show anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import torch
from torch import Generator, Tensor
from torch.nn import functional

from codefend.lab.attacks.budgets import Window
from codefend.lab.attacks.gradient import require_valid
from codefend.lab.attacks.interface import Objective

__all__ = ["ImageScaling", "Resampling", "scale_down"]


class Resampling(StrEnum):
    """How an upstream makes a picture smaller."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"  # of the four nearest pixels, as OpenCV's and torch's defaults
    BICUBIC = "bicubic"  # of the sixteen nearest
    ANTIALIASED_BILINEAR = "antialiased-bilinear"  # as wide as what it covers, as Pillow's
    ANTIALIASED_BICUBIC = "antialiased-bicubic"


@lru_cache(maxsize=64)
def _weights(num_in: int, num_out: int, resampling: Resampling) -> Tensor:
    """(num_out, num_in): what each result of one axis takes of each pixel."""
    prefix, _, kernel = resampling.rpartition("-")
    mode, options = (
        ("nearest-exact", {}) if kernel == "nearest" else (kernel, {"antialias": bool(prefix)})
    )
    one_each = torch.eye(num_in, dtype=torch.float64)[None, None]
    return functional.interpolate(one_each, size=(num_out, num_in), mode=mode, **options)[0, 0]


def scale_down(images: Tensor, height: int, width: int, resampling: Resampling) -> Tensor:
    """Scales a batch as an upstream would.

    Args:
        images: (B, C, H, W) floating point.
        height: rows of the result.
        width: columns of the result.
        resampling: the filter.

    Returns:
        (B, C, height, width) of the same type; bicubic ones may leave the range.
    """
    rows = _weights(images.shape[-2], height, resampling).to(images)
    columns = _weights(images.shape[-1], width, resampling).to(images)
    return rows @ images @ columns.T


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScaling:
    """Moves as little of an image as makes its scaled version another image; needs no gradient.

    The least change (in squares) has a closed form for a linear filter: what is lacking, spread by
    the filter's pseudo-inverse. Clipping to the range undoes some of it, so it is repeated.
    Deviation: the paper's convex programme also bounds what is seen; here whatever is left of the
    cover is what the filter does not look at.

    Attributes:
        hidden: (B, 3, h, w) in [0, 1]: what shall be seen, at the size that it is seen in; where
            there is none, a fourth of each side shows the next image of the batch, or of a single
            one its negative.
        resampling: the upstream's filter.
        steps: repetitions.
    """

    hidden: Tensor | None = None
    resampling: Resampling = Resampling.BILINEAR
    steps: int = 20

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        require_valid(steps=self.steps, restarts=1)

    @property
    def budget(self) -> Window:
        """See ``Budgeted``: the whole image."""
        return Window(1.0)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` is never asked.

        Raises:
            ValueError: for more or fewer hidden images than there are images.
        """
        covers = images.detach().double()
        hidden = _next_of(covers) if self.hidden is None else self.hidden.to(covers)
        if len(hidden) != len(covers):
            raise ValueError(f"{len(hidden)} images to hide in {len(covers)}")
        sizes = zip(covers.shape[-2:], hidden.shape[-2:], strict=True)
        rows, columns = (_weights(*size, self.resampling).to(covers) for size in sizes)
        spread_rows, spread_columns = torch.linalg.pinv(rows), torch.linalg.pinv(columns)
        attacked = covers
        for _ in range(self.steps):
            lacking = hidden - rows @ attacked @ columns.T
            attacked = (attacked + spread_rows @ lacking @ spread_columns.T).clamp(0, 1)
        return attacked.to(images)


def _next_of(covers: Tensor) -> Tensor:
    others = 1 - covers if len(covers) == 1 else covers.roll(-1, dims=0)
    height, width = (max(1, side // 4) for side in covers.shape[-2:])
    return functional.adaptive_avg_pool2d(others, (height, width))
