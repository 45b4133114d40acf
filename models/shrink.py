"""Scales pictures down so that nothing appears that was not there: by the mean of what is covered.

Other filters look at some pixels more than at others, and the nearest neighbour at few alone: a
picture can be made that shows something else once it is scaled (Xiao et al. 2019, "Seeing is Not
Believing: Camouflage Attacks on Image Scaling Algorithms"). Here every pixel of the source weighs
as much as every other (Quiring et al. 2020, "Adversarial Preprocessing", section 4). Used where
images are decoded, and measured by the laboratory. Imports no torch.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["shrink", "shrunken_size"]

# So many rows of the source are read at once: enough for speed, and little memory.
SOURCE_ROWS = 32


def shrunken_size(height: int, width: int, side_px: int) -> tuple[int, int]:
    """Height and width of a picture after `shrink`.

    Args:
        height: Rows, at least 1.
        width: Columns, at least 1.
        side_px: The longest side that it may have; 0 for any.
    """
    longest = max(height, width)
    if not side_px or longest <= side_px:
        return height, width
    scaled = (max(1, round(side * side_px / longest)) for side in (height, width))
    return next(scaled), next(scaled)


def shrink(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Scales a picture down until its longer side is `side_px`; a smaller one stays as it is.

    Args:
        pixels: (H, W, 3) uint8.
        side_px: The longest side of the result; 0 leaves every picture as it is.

    Returns:
        (h, w, 3) uint8: each pixel is the mean of the area that it covers, parts of pixels counted
        as parts, rounded half to even.
    """
    height, width = shrunken_size(pixels.shape[0], pixels.shape[1], side_px)
    if (height, width) == pixels.shape[:2]:
        return pixels
    means = _mean_rows(_mean_rows(pixels, height).swapaxes(0, 1), width).swapaxes(0, 1)
    return np.rint(means).astype(np.uint8)


def _mean_rows(values: NDArray[Any], num_rows: int) -> NDArray[np.float32]:
    """Means (num_rows, ...) over equal parts of the first axis."""
    length = values.shape[0] / num_rows
    means = np.empty((num_rows, *values.shape[1:]), np.float32)
    step = max(1, round(SOURCE_ROWS / length))
    for first in range(0, num_rows, step):
        edges = np.arange(first, min(first + step, num_rows) + 1) * length
        covered = np.arange(int(edges[0]), min(len(values), int(np.ceil(edges[-1]))))
        # How much of each row lies within each part.
        ends = np.minimum(edges[1:, np.newaxis], covered + 1)
        begins = np.maximum(edges[:-1, np.newaxis], covered)
        weights = (np.maximum(ends - begins, 0) / length).astype(np.float32)
        rows = values[covered[0] : covered[-1] + 1].astype(np.float32, order="C")
        means[first : first + step] = np.tensordot(weights, rows, axes=1)
    return means
