"""Every picture of a folder, opened as the service would, with its hashes.

A file is read once; its hashes are remembered until it changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageOps

from codefend.lab.progress import progress

__all__ = ["Entry", "catalogue", "open_picture", "square"]

HASHED_SIDE_PX = 64


@dataclass(frozen=True, slots=True)
class Entry:
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


def catalogue(root: Path, paths: Sequence[Path], kept: Path) -> list[Entry]:
    """The entries of ``paths``, in their order; interrupted, it resumes.

    Args:
        root: the folder that names are relative to.
        paths: files below it.
        kept: folder of what is remembered, one file a root.
    """
    memory = kept / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"
    told = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else []
    known = [Entry(**fields) for fields in told]
    unchanged = {(entry.name, entry.num_bytes, entry.changed_ns): entry for entry in known}
    entries: list[Entry] = []
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


def _read(path: Path, name: str, num_bytes: int, changed_ns: int) -> Entry:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        fingerprint = str(imagehash.phash(open_picture(path, HASHED_SIDE_PX)))
    except (OSError, ValueError):
        fingerprint = ""
    return Entry(name, sha256, fingerprint, num_bytes, changed_ns)


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
