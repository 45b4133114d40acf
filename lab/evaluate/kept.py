"""Attacked images as the PNG files that would be uploaded: made once, then read from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.experiments.store import write_atomically

__all__ = ["are_kept", "kept_images"]


def are_kept(folder: Path, num: int) -> bool:
    """Whether all ``num`` files are there."""
    return all(path.exists() for path in _paths(folder, num))


def kept_images(folder: Path, num: int, make: Callable[[], Sequence[bytes]]) -> list[np.ndarray]:
    """The images of ``folder``; ``make`` gives their PNG files where one is missing.

    Returns:
        (H, W, 3) uint8 each, as read back from the files.
    """
    if not are_kept(folder, num):
        for path, data in zip(_paths(folder, num), make(), strict=True):
            write_atomically(path, data)
    return [decode_png(path.read_bytes()) for path in _paths(folder, num)]


def _paths(folder: Path, num: int) -> list[Path]:
    return [folder / f"{index:03d}.png" for index in range(num)]
