"""Pictures that look alike: copies, other sizes, light and dark versions of one photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codefend.lab.world.assets import SAME_PHOTO_BITS

__all__ = ["group_alike"]

_ROWS_AT_ONCE = 128


def group_alike(fingerprints: Sequence[str]) -> list[int]:
    """The group of each picture: those within 12 bits of each other, and whoever is near to them.

    Args:
        fingerprints: perceptual hashes of 64 bits, hexadecimal.

    Returns:
        For each the smallest index in its group.
    """
    hashes = np.array([int(text, 16) for text in fingerprints], dtype=np.uint64)
    parents = list(range(len(hashes)))
    for start in range(0, len(hashes), _ROWS_AT_ONCE):
        rows = hashes[start : start + _ROWS_AT_ONCE]
        distances = np.bitwise_count(rows[:, None] ^ hashes[None, start:])
        for row, column in np.argwhere(distances <= SAME_PHOTO_BITS):
            if row < column:
                _join(parents, start + int(row), start + int(column))
    return [_root(parents, index) for index in range(len(parents))]


def _join(parents: list[int], first: int, second: int) -> None:
    low, high = sorted((_root(parents, first), _root(parents, second)))
    parents[high] = low


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
