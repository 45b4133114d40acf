"""Pixels in shared memory: decoded once, purified and encoded in other processes, never piped.

A lease is one segment with room for two pictures: the decoded one first, the purified one after.
The service creates and frees every segment; children only attach.
"""

from enum import IntEnum
from multiprocessing.shared_memory import SharedMemory

import numpy as np
from numpy.typing import NDArray

__all__ = ["Picture", "PixelLease", "lease_pixels", "read_pixels", "write_pixels"]

CHANNELS = 3


class Picture(IntEnum):
    """Which of the two pictures of a lease."""

    DECODED = 0
    PURIFIED = 1


class PixelLease:
    """Ownership of one segment, counted: a request and a running batch may hold it together."""

    def __init__(self, segment: SharedMemory) -> None:
        self._segment = segment
        self._num_holders = 1

    @property
    def name(self) -> str:
        """What children attach by."""
        return self._segment.name

    def hold(self) -> None:
        """Adds a holder."""
        self._num_holders += 1

    def release(self) -> None:
        """Removes a holder; the last one frees the memory."""
        self._num_holders -= 1
        if self._num_holders == 0:
            self._segment.close()
            self._segment.unlink()


def lease_pixels(max_pixels: int) -> PixelLease:
    """Creates a segment for two pictures of up to `max_pixels` each.

    The segment is sparse: memory is spent only for the pixels that are written.

    Raises:
        OSError: The system has no shared memory left.
    """
    return PixelLease(SharedMemory(create=True, size=2 * CHANNELS * max_pixels))


def write_pixels(name: str, picture: Picture, pixels: NDArray[np.uint8]) -> None:
    """Copies one picture into a segment.

    Args:
        name: The segment's name.
        picture: Which place to fill.
        pixels: (H, W, 3) uint8.

    Raises:
        FileNotFoundError: The segment was freed meanwhile.
    """
    segment = SharedMemory(name)
    try:
        _view(segment, picture, pixels.shape[0], pixels.shape[1])[:] = pixels
    finally:
        segment.close()


def read_pixels(name: str, picture: Picture, height: int, width: int) -> NDArray[np.uint8]:
    """Copies one picture out of a segment.

    Returns:
        (height, width, 3) uint8.

    Raises:
        FileNotFoundError: The segment was freed meanwhile.
    """
    segment = SharedMemory(name)
    try:
        return _view(segment, picture, height, width).copy()
    finally:
        segment.close()


def _view(segment: SharedMemory, picture: Picture, height: int, width: int) -> NDArray[np.uint8]:
    offset = picture * height * width * CHANNELS
    return np.ndarray((height, width, CHANNELS), np.uint8, buffer=segment.buf, offset=offset)
