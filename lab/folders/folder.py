"""A folder of pictures as training and evaluation want it: split, of one size, told about.

Its files are read once; their hashes are remembered until they change. The folder may say itself
what is true of its pictures, in a file of the gallery's format.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import imagehash
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from codefend.lab.errors import LabError
from codefend.lab.progress import progress
from codefend.lab.world.assets import photo_paths
from codefend.lab.world.layout import SPLITS, Split
from codefend.lab.world.splits import group_alike, split_groups

__all__ = [
    "AnsweredQuestion",
    "ImageFolder",
    "JudgedQuestion",
    "Truth",
    "open_folder",
    "open_picture",
    "read_scenes",
    "square",
]

SCENES_FILE = "scenes.json"
SHARES: Mapping[Split, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}
PHOTO_SHORT_SIDE_PX = 512
CATALOGUES = Path("work/folders")
HASHED_SIDE_PX = 64


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question, its only right answer, and its type (``kind``)."""

    question: str
    answer: str
    kind: str = "any"


@dataclass(frozen=True, slots=True)
class JudgedQuestion(AnsweredQuestion):
    """A question that people answered, not all alike; ``answer`` is what most of them said."""

    answers: tuple[str, ...] = ()


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
    entries = _catalogue(root, found, kept)
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


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file.

    Attributes:
        name: path relative to the folder.
        sha256: of the file, hexadecimal.
        fingerprint: perceptual hash of 64 bits, hexadecimal; empty where it cannot be read.
        num_bytes: length of the file.
        changed_ns: when it was last written.
    """

    name: str
    sha256: str
    fingerprint: str
    num_bytes: int
    changed_ns: int


def _catalogue(root: Path, paths: Sequence[Path], kept: Path) -> list[_Entry]:
    """The entries of ``paths``, in their order; interrupted, it resumes.

    Args:
        root: the folder that names are relative to.
        paths: files below it.
        kept: folder of what is remembered, one file a root.
    """
    memory = kept / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"
    told = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else []
    known = [_Entry(**fields) for fields in told]
    unchanged = {(entry.name, entry.num_bytes, entry.changed_ns): entry for entry in known}
    entries: list[_Entry] = []
    try:
        for path in progress(paths, desc=f"reading {root.name}", unit="picture"):
            state = path.stat()
            key = (path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns)
            entries.append(unchanged.get(key) or _read(path, *key))
    finally:
        kept_now = {entry.name: entry for entry in (*known, *entries)}
        memory.parent.mkdir(parents=True, exist_ok=True)
        partial = memory.with_name(f".{memory.name}.{os.getpid()}")
        told = [asdict(entry) for entry in kept_now.values()]
        partial.write_text(json.dumps(told), encoding="utf-8")
        partial.replace(memory)
    return entries


def _read(path: Path, name: str, num_bytes: int, changed_ns: int) -> _Entry:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        fingerprint = str(imagehash.phash(open_picture(path, HASHED_SIDE_PX)))
    except (OSError, ValueError):
        fingerprint = ""
    return _Entry(name, sha256, fingerprint, num_bytes, changed_ns)


def open_picture(path: Path, short_side_px: int) -> Image.Image:
    """A picture in RGB, orientation applied, alpha laid on white.

    Args:
        path: JPEG, PNG or WebP.
        short_side_px: larger pictures are scaled down to it; smaller ones stay as they are.

    Raises:
        OSError: the file is no picture that can be read.
    """
    with Image.open(path) as opened:
        opened.draft("RGB", (short_side_px * 2, short_side_px * 2))
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = image.convert("RGB")
    scale = short_side_px / min(image.size)
    if scale >= 1:
        return image
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def square(path: Path, side_px: int) -> np.ndarray:
    """The middle of a picture, (side, side, 3) uint8; smaller pictures are scaled up.

    Raises:
        OSError: the file is no picture that can be read.
    """
    image = open_picture(path, side_px)
    return np.asarray(ImageOps.fit(image, (side_px, side_px), Image.Resampling.LANCZOS))


def _rank(entry: _Entry) -> int:
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
