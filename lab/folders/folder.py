"""A folder of pictures as training and evaluation want it: split, of one size, told about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from codefend.lab.errors import LabError
from codefend.lab.folders.catalogue import Entry, catalogue
from codefend.lab.folders.groups import group_alike
from codefend.lab.folders.picture import open_picture, square
from codefend.lab.folders.truth import Truth, read_scenes
from codefend.lab.world.assets import photo_paths
from codefend.lab.world.layout import SPLITS, Split

__all__ = ["ImageFolder", "open_folder"]

SHARES: Mapping[Split, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}
PHOTO_SHORT_SIDE_PX = 512
CATALOGUES = Path("work/folders")


@dataclass(frozen=True, slots=True)
class _Photos(Sequence[Tensor]):
    """Pictures (3, H, W) uint8 with a short side of at most 512 px, opened when they are wanted."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return _Photos(self.paths[index])
        image = open_picture(self.paths[index], PHOTO_SHORT_SIDE_PX)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Pictures by split; what the photos of ``World`` are to the embedded world.

    Attributes:
        root: the folder.
        size_px: side of the squares that ``images`` gives.
        paths: for each split its pictures, in an order that their contents decide.
        truths: what the folder's own ``scenes.json`` says of them; empty where there is none.
        unreadable: names of the files that could not be read, and are left out.
    """

    root: Path
    size_px: int
    paths: Mapping[Split, Sequence[Path]]
    truths: Mapping[Path, Truth]
    unreadable: Sequence[str]

    @property
    def photos(self) -> Mapping[Split, Sequence[Tensor]]:
        """For each split its pictures whole, (3, H, W) uint8, opened when they are wanted."""
        return {split: _Photos(paths) for split, paths in self.paths.items()}

    def images(self, paths: Sequence[Path]) -> list[np.ndarray]:
        """The middle squares of pictures, (size, size, 3) uint8 each."""
        return [square(path, self.size_px) for path in paths]

    def first(self, split: Split, num: int) -> Sequence[Path]:
        """The first ``num`` pictures of a split, or as many as there are.

        Raises:
            LabError: the split has none.
        """
        if not self.paths[split]:
            raise LabError(f"no picture of {self.root} falls to the {split} split: give more")
        return self.paths[split][:num]

    def describe(self) -> str:
        """How many pictures there are, of what size, and in which split."""
        shares = ", ".join(f"{len(self.paths[split])} {split}" for split in SPLITS)
        left_out = f"; {len(self.unreadable)} could not be read" if self.unreadable else ""
        return f"{self.root} at {self.size_px}×{self.size_px} px ({shares}{left_out})"


def open_folder(root: Path, size_px: int, *, kept: Path = CATALOGUES) -> ImageFolder:
    """Find the pictures below a folder and split them.

    Where the folder has a ``scenes.json``, its clean pictures are all there is. The sha256 of a
    file decides its split, and pictures that look alike all go to the earliest of theirs, train
    first: nothing of test has a copy elsewhere, and what was trained on stays so when pictures
    are renamed or added.

    Args:
        root: any depth, any sizes; JPEG, PNG or WebP.
        size_px: side of the squares that a batch is made of.
        kept: where hashes are remembered.

    Raises:
        LabError: there are no pictures, or ``scenes.json`` is not in the gallery's format.
    """
    truths = read_scenes(root)
    found = sorted(truths or photo_paths(root))
    entries = catalogue(root, found, kept)
    readable = [entry for entry in entries if entry.fingerprint]
    if not readable:
        raise LabError(f"{root} holds no picture that can be read")
    return ImageFolder(
        root=root,
        size_px=size_px,
        paths={
            split: [root / entry.name for entry in share]
            for split, share in _split(readable).items()
        },
        truths=truths,
        unreadable=[entry.name for entry in entries if not entry.fingerprint],
    )


def _split(entries: Sequence[Entry]) -> dict[Split, list[Entry]]:
    ordered = sorted(entries, key=lambda entry: (entry.sha256, entry.name))
    groups = group_alike([entry.fingerprint for entry in ordered])
    earliest: dict[int, int] = {}
    for entry, group in zip(ordered, groups, strict=True):
        earliest[group] = min(_rank(entry), earliest.get(group, len(SPLITS)))
    return {
        split: [e for e, group in zip(ordered, groups, strict=True) if earliest[group] == number]
        for number, split in enumerate(SPLITS)
    }


def _rank(entry: Entry) -> int:
    """The number of the split that a file's own hash draws."""
    drawn = int(entry.sha256[:13], 16) / 16**13
    ends = np.cumsum([SHARES[split] for split in SPLITS])
    return min(int(np.searchsorted(ends, drawn, side="right")), len(SPLITS) - 1)
