"""Pixels in shared memory: decoded once, purified and encoded in other processes, never piped.

A lease is one file in memory with room for two pictures: the decoded one first, the purified one
after. At its end a byte for each tile says whether it lies in the purified picture. All of it is
reserved when it is leased, so that no process is killed by a bus error on memory that was promised
and is not there. The service creates and frees every file, and reads and writes it by system calls
alone, which fail with an error; only its children map it.
"""

import contextlib
import fcntl
import mmap
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codefend.models.tiles import Tile, Tiling

__all__ = [
    "Picture",
    "PixelLease",
    "PixelStore",
    "bytes_of_lease",
    "lay_tile",
    "read_pixels",
    "read_tile",
    "write_pixels",
]

CHANNELS = 3
NUM_PICTURES = 2
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory
_PREFIX = "codefend-pixels-"
_LOCK = "lock"


class Picture(IntEnum):
    """Which of the two pictures of a lease."""

    DECODED = 0
    PURIFIED = 1


def bytes_of_lease(num_pixels: int) -> int:
    """Bytes that a lease for pictures of so many pixels reserves."""
    return NUM_PICTURES * CHANNELS * num_pixels


class PixelLease:
    """Ownership of one file, counted: a request and a running batch may hold it together.

    Attributes:
        name: What children open.
    """

    def __init__(self, path: Path, on_free: Callable[[], None]) -> None:
        self.name = str(path)
        self._on_free = on_free
        self._num_holders = 1

    def hold(self) -> None:
        """Adds a holder."""
        self._num_holders += 1

    def release(self) -> None:
        """Removes a holder; the last one frees the memory."""
        self._num_holders -= 1
        if self._num_holders == 0:
            Path(self.name).unlink(missing_ok=True)
            self._on_free()

    def write(self, picture: Picture, pixels: NDArray[np.uint8]) -> None:
        """Copies one picture in, by system calls: for the service itself, which maps nothing.

        Args:
            picture: Which place to fill.
            pixels: (H, W, 3) uint8.

        Raises:
            OSError: There is no such file any more, or no memory.
        """
        left = memoryview(np.ascontiguousarray(pixels).data).cast("B")
        offset = picture * len(left)
        file = os.open(self.name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while left:
                num_written = os.pwrite(file, left, offset)
                left, offset = left[num_written:], offset + num_written
        finally:
            os.close(file)


class PixelStore:
    """A folder of leases that is this process's own; it goes with the process, however that ends.

    A process that was killed cannot clean up: the next one removes the folders whose owners are
    gone, which it knows by their locks. The kernel drops those with their process.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Makes the folder.

        Args:
            parent: Where; None for the system's shared memory, or its folder of temporary files.

        Raises:
            OSError: It cannot be made.
        """
        if parent is None:
            has_memory = os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
            parent = _SHARED_MEMORY if has_memory else Path(tempfile.gettempdir())
        _remove_abandoned(parent)
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self.directory / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Also where nobody closes it: an application may be made and never started.
        self._finalizer = weakref.finalize(self, _remove, self.directory, self._lock)

    def lease(
        self, num_pixels: int, on_free: Callable[[], None] = lambda: None, num_tiles: int = 1
    ) -> PixelLease:
        """Reserves memory for two pictures of `num_pixels` each.

        Args:
            num_pixels: Of each picture.
            on_free: Called when the last holder has released it.
            num_tiles: Of each picture.

        Raises:
            OSError: The system has not so much shared memory left.
        """
        num_bytes = bytes_of_lease(num_pixels) + num_tiles
        path = self.directory / secrets.token_hex(16)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _reserve(file, num_bytes)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)
        return PixelLease(path, on_free)

    def close(self) -> None:
        """Removes the folder, leases that are still held included."""
        self._finalizer()


def _remove(directory: Path, lock: int) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    os.close(lock)


def write_pixels(name: str, picture: Picture, pixels: NDArray[np.uint8]) -> None:
    """Copies one picture into a lease, by a mapping: a confined process may write no file.

    Args:
        name: The lease's name.
        picture: Which place to fill.
        pixels: (H, W, 3) uint8.

    Raises:
        FileNotFoundError: The lease was freed meanwhile.
        ValueError: The picture does not fit.
    """
    file = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        with mmap.mmap(file, 0) as memory:
            offset = picture * pixels.nbytes
            place = np.frombuffer(memory, np.uint8, pixels.size, offset)
            place.reshape(pixels.shape)[:] = pixels
            del place  # a view keeps its mapping from being closed
    finally:
        os.close(file)


def read_pixels(name: str, picture: Picture, height: int, width: int) -> NDArray[np.uint8]:
    """Copies one picture out of a lease.

    Returns:
        (height, width, 3) uint8.

    Raises:
        FileNotFoundError: The lease was freed meanwhile.
        ValueError: It holds no such picture.
    """
    shape = (height, width, CHANNELS)
    num_bytes = height * width * CHANNELS
    return np.fromfile(name, np.uint8, num_bytes, offset=picture * num_bytes).reshape(shape)


def read_tile(name: str, size: tuple[int, int], tile: Tile) -> NDArray[np.uint8]:
    """Copies a part of the decoded picture out of a lease.

    Args:
        name: The lease's name.
        size: Height and width of the picture.
        tile: The part.

    Returns:
        (tile.height, tile.width, 3) uint8.

    Raises:
        FileNotFoundError: The lease was freed meanwhile.
        ValueError: It holds no such picture.
    """
    decoded = np.memmap(name, np.uint8, "r", shape=(*size, CHANNELS))
    return np.array(decoded[tile.place])


def lay_tile(
    name: str, size: tuple[int, int], tiling: Tiling, number: int, pixels: NDArray[np.uint8]
) -> None:
    """Lays one tile into the purified picture of a lease, whichever process laid the others.

    A tile that is laid a second time, because its batch failed after the first, changes nothing.

    Args:
        name: The lease's name.
        size: Height and width of the picture.
        tiling: How it is cut.
        number: Which of the tiles it is.
        pixels: The tile, (height, width, 3) uint8.

    Raises:
        FileNotFoundError: The lease was freed meanwhile.
        ValueError: The lease is of another size.
    """
    tiles = tiling.cut(*size)
    num_bytes = size[0] * size[1] * CHANNELS
    with _locked(name) as file:
        if os.fstat(file).st_size != NUM_PICTURES * num_bytes + len(tiles):
            msg = f"the lease has no {len(tiles)} tiles of a picture of {size[0]}x{size[1]}"
            raise ValueError(msg)
        whole = np.memmap(name, np.uint8, "r+")
        is_laid = whole[NUM_PICTURES * num_bytes :]
        if is_laid[number]:
            return
        picture = whole[num_bytes : NUM_PICTURES * num_bytes].reshape(*size, CHANNELS)
        laid = [tiles[other] for other in tiling.neighbours(*size, number) if is_laid[other]]
        tiling.lay(picture, pixels, tiles[number], laid)
        is_laid[number] = 1


@contextlib.contextmanager
def _locked(name: str) -> Iterator[int]:
    """Keeps other processes out that ask for the same lock; it goes with the process."""
    file = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _reserve(file: int, num_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, num_bytes)
    else:
        os.ftruncate(file, num_bytes)


def _remove_abandoned(parent: Path) -> None:
    for directory in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or gone in this very moment
            _remove_if_abandoned(directory)


def _remove_if_abandoned(directory: Path) -> None:
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory)
    finally:
        os.close(lock)
