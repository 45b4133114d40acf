"""Sizes images to a few shapes, so that uploads of different sizes share a batch, and crops back.

Used by the batching policy (shapes only) and by the purifier's worker (pixels). Imports no torch.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bucket", "choose_bucket", "crop_from_bucket", "pad_to_bucket"]

# Multiples of this side are what the purifier's own down-sampling divides without a remainder.
BUCKET_STEP_PX = 64
# Above this side the steps double: large uploads are rare, and each shape of its own batches alone.
FINE_STEPS_UP_TO_PX = 1024


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A shape that batches are made in; both sides are multiples of 64 pixels.

    Attributes:
        height: Rows.
        width: Columns.
        num_pixels: Pixels of one padded image.
    """

    height: int
    width: int
    num_pixels: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if (
            min(self.height, self.width) < 1
            or self.height % BUCKET_STEP_PX
            or self.width % BUCKET_STEP_PX
        ):
            msg = f"both sides of a bucket are positive multiples of {BUCKET_STEP_PX}: {self}"
            raise ValueError(msg)
        object.__setattr__(self, "num_pixels", self.height * self.width)

    def holds(self, other: "Bucket") -> bool:
        """Whether an image padded to `other` can be padded to this one instead."""
        return self.height >= other.height and self.width >= other.width


def choose_bucket(height: int, width: int) -> Bucket:
    """Finds the smallest bucket that holds an image.

    Up to 1024 pixels a side the step is 64, above it 128: the cost on a CPU is proportional to the
    padded pixels, so the steps are fine where uploads are common.

    Args:
        height: Rows of the image, at least 1.
        width: Columns of the image, at least 1.

    Raises:
        ValueError: A side is below 1.
    """
    return Bucket(_round_up(height), _round_up(width))


def _round_up(side_px: int) -> int:
    if side_px < 1:
        msg = f"an image side is at least one pixel, got {side_px}"
        raise ValueError(msg)
    step_px = BUCKET_STEP_PX if side_px <= FINE_STEPS_UP_TO_PX else 2 * BUCKET_STEP_PX
    return -(-side_px // step_px) * step_px


def pad_to_bucket(pixels: NDArray[np.uint8], bucket: Bucket) -> NDArray[np.uint8]:
    """Reflects an image at its right and lower edge until it fills the bucket.

    Reflection continues the picture's own texture, so that the purifier sees no artificial edge.
    An image smaller than the padding is reflected again and again; one single row is repeated.

    Args:
        pixels: (H, W, 3) uint8, no larger than the bucket.
        bucket: The shape to fill.

    Returns:
        (bucket.height, bucket.width, 3) uint8; the image itself where it fills the bucket.

    Raises:
        ValueError: The image is larger than the bucket.
    """
    height, width = pixels.shape[:2]
    below_px, right_px = bucket.height - height, bucket.width - width
    if below_px < 0 or right_px < 0:
        msg = f"an image of {height}x{width} does not fit {bucket}"
        raise ValueError(msg)
    if below_px == right_px == 0:
        return pixels
    return np.pad(pixels, ((0, below_px), (0, right_px), (0, 0)), mode="reflect")


def crop_from_bucket(padded: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Undoes `pad_to_bucket`.

    Args:
        padded: (bucket.height, bucket.width, 3) uint8.
        height: Rows of the original image.
        width: Columns of the original image.

    Returns:
        (height, width, 3) uint8, a view of `padded`.
    """
    return padded[:height, :width]
