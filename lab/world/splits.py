"""Which photos belong to which split; variants of one photo never stand on both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from codefend.lab.world.layout import SPLITS, Split

__all__ = ["photo_group", "split_photos"]

_SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
_VARIANT = re.compile(r"([-_ ](l|d|light|dark|\d+x\d+|\d+))+$")


def split_photos(paths: Sequence[str]) -> dict[Split, list[int]]:
    """Indices of ``paths`` by split, shuffled alike every time.

    Photos are dealt out one by one; then all variants of a photo (see ``photo_group``) go to the
    earliest split, train first, that was dealt any of them.
    """
    order = np.random.default_rng(7).permutation(len(paths))
    ends = np.cumsum([_SHARES[split] for split in SPLITS]) * len(paths)
    rank = np.empty(len(paths), dtype=int)
    rank[order] = np.searchsorted(np.round(ends), np.arange(len(paths)), side="right")
    groups = [photo_group(path) for path in paths]
    earliest: dict[str, int] = {}
    for index, group in enumerate(groups):
        earliest[group] = min(int(rank[index]), earliest.get(group, len(SPLITS)))
    return {
        split: [int(index) for index in order if earliest[groups[index]] == number]
        for number, split in enumerate(SPLITS)
    }


def photo_group(path: str) -> str:
    """What the crops and the light and dark variants of one wallpaper have in common.

    A wallpaper package keeps them in one folder ``NAME/contents``, or tells them apart by the end
    of the file name. (Equal pictures in other sizes were already merged by perceptual hash.)
    """
    pure = PurePosixPath(path)
    if "contents" in pure.parts:
        return "/".join(pure.parts[: pure.parts.index("contents")])
    return str(pure.with_name(_VARIANT.sub("", pure.stem)))
