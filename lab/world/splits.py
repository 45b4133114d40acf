"""Which photos belong to which split: what looks alike never stands on both sides."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import PurePosixPath

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from codefend.lab.world.layout import SPLITS, Split

__all__ = ["SAME_PHOTO_BITS", "group_alike", "photo_group", "split_groups", "split_photos"]

SAME_PHOTO_BITS = 12
"""Perceptual hashes of 64 bits that differ by no more are of one photo."""

_SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
_VARIANT = re.compile(r"([-_ ](l|d|light|dark|\d+x\d+|\d+))+$")
_ROWS_AT_ONCE = 128


def split_groups(ranks: Sequence[int], groups: Sequence[Hashable]) -> dict[Split, list[int]]:
    """Indices of pictures by split, in order; a group goes to its earliest split, train first.

    Args:
        ranks: for each picture the number of the split that it would go to alone.
        groups: what it is the same photo as.
    """
    earliest: dict[Hashable, int] = {}
    for rank, group in zip(ranks, groups, strict=True):
        earliest[group] = min(rank, earliest.get(group, len(SPLITS)))
    return {
        split: [index for index, group in enumerate(groups) if earliest[group] == number]
        for number, split in enumerate(SPLITS)
    }


def split_photos(paths: Sequence[str]) -> dict[Split, list[int]]:
    """Indices of ``paths`` by split, shuffled alike every time.

    Photos are dealt out one by one; then all variants of a photo (see ``photo_group``) go to the
    earliest split that was dealt any of them.
    """
    order = np.random.default_rng(7).permutation(len(paths))
    ends = np.round(np.cumsum([_SHARES[split] for split in SPLITS]) * len(paths))
    ranks = np.searchsorted(ends, np.arange(len(paths)), side="right")
    dealt = split_groups(ranks.tolist(), [photo_group(paths[index]) for index in order])
    return {split: [int(order[place]) for place in share] for split, share in dealt.items()}


def photo_group(path: str) -> str:
    """What the crops and the light and dark variants of one wallpaper have in common.

    A wallpaper package keeps them in one folder ``NAME/contents``, or tells them apart by the end
    of the file name. (Equal pictures in other sizes were already merged by perceptual hash.)
    """
    pure = PurePosixPath(path)
    if "contents" in pure.parts:
        return "/".join(pure.parts[: pure.parts.index("contents")])
    return str(pure.with_name(_VARIANT.sub("", pure.stem)))


def group_alike(fingerprints: Sequence[str]) -> list[int]:
    """The group of each picture: those within 12 bits of each other, and whoever is near to them.

    Args:
        fingerprints: perceptual hashes of 64 bits, hexadecimal.

    Returns:
        For each the smallest index in its group.
    """
    hashes = np.array([int(text, 16) for text in fingerprints], dtype=np.uint64)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(hashes), _ROWS_AT_ONCE):
        rows = hashes[start : start + _ROWS_AT_ONCE]
        distances = np.bitwise_count(rows[:, None] ^ hashes[None, start:])
        pairs.append(start + np.argwhere(distances <= SAME_PHOTO_BITS))
    ones, twos = np.concatenate(pairs).T
    near = coo_array((np.ones(len(ones)), (ones, twos)), shape=(len(hashes), len(hashes)))
    _, groups = connected_components(near, directed=False)
    smallest = {group: index for index, group in reversed(list(enumerate(groups.tolist())))}
    return [smallest[group] for group in groups.tolist()]
