"""A folder of pictures as training and evaluation want it: split, of one size, told about.

The folder may say itself what is true of its pictures, in a file of the gallery's format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from codefend.lab.errors import LabError
from codefend.lab.folders.catalogue import Entry, catalogue, open_picture, square
from codefend.lab.world.assets import photo_paths
from codefend.lab.world.layout import SPLITS, Split
from codefend.lab.world.splits import group_alike, split_groups

__all__ = ["AnsweredQuestion", "ImageFolder", "Truth", "open_folder", "read_scenes"]

SCENES_FILE = "scenes.json"
SHARES: Mapping[Split, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}
PHOTO_SHORT_SIDE_PX = 512
CATALOGUES = Path("work/folders")


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question, its only right answer, and its type (``kind``)."""

    question: str
    answer: str
    kind: str = "any"


@dataclass(frozen=True, slots=True)
class Truth:
    """Right captions of a picture, at least one, and questions with their right answers."""

    captions: tuple[str, ...]
    questions: tuple[AnsweredQuestion, ...]


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
    ordered = sorted(readable, key=lambda entry: (entry.sha256, entry.name))
    groups = group_alike([entry.fingerprint for entry in ordered])
    shares = split_groups([_rank(entry) for entry in ordered], groups)
    return ImageFolder(
        root=root,
        size_px=size_px,
        paths={split: [root / ordered[n].name for n in share] for split, share in shares.items()},
        truths=truths,
        unreadable=[entry.name for entry in entries if not entry.fingerprint],
    )


def _rank(entry: Entry) -> int:
    """The number of the split that a file's own hash draws."""
    drawn = int(entry.sha256[:13], 16) / 16**13
    ends = np.cumsum([SHARES[split] for split in SPLITS])
    return min(int(np.searchsorted(ends, drawn, side="right")), len(SPLITS) - 1)


def read_scenes(folder: Path) -> dict[Path, Truth]:
    """What ``scenes.json`` tells of the pictures of a folder; nothing where there is no such file.

    A list of ``{"clean": path, "caption": text, "questions": [{"question", "answer"}]}``, paths
    relative to the folder. ``"captions"`` may give several, and a question its ``"kind"``; other
    fields, as the gallery has them, are passed over.

    Raises:
        LabError: the file is not of this form, or names a picture that is not there.
    """
    path = folder / SCENES_FILE
    if not path.exists():
        return {}
    try:
        scenes = json.loads(path.read_text(encoding="utf-8"))
        told = {folder / scene["clean"]: _truth(scene) for scene in scenes}
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path} is not in the gallery's format: {error!r}") from error
    missing = next((picture for picture in told if not picture.is_file()), None)
    if missing is not None:
        raise LabError(f"{path} names {missing}, which is not there")
    return told


def _truth(scene: dict[str, Any]) -> Truth:
    captions = tuple(scene.get("captions") or [scene["caption"]])
    questions = (
        AnsweredQuestion(asked["question"], asked["answer"], asked.get("kind", "any"))
        for asked in scene["questions"]
    )
    return Truth(captions, tuple(questions))
