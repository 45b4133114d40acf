"""Every picture of a folder with its hashes; read once, then remembered until the file changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import imagehash

from codefend.lab.folders.picture import open_picture
from codefend.lab.progress import progress

__all__ = ["Entry", "catalogue"]

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
    known = _remembered(memory)
    entries: list[Entry] = []
    try:
        for path in progress(paths, desc=f"reading {root.name}", unit="picture"):
            state = path.stat()
            name = path.relative_to(root).as_posix()
            entry = known.get(name)
            if entry is None or (entry.num_bytes, entry.changed_ns) != (
                state.st_size,
                state.st_mtime_ns,
            ):
                entry = _read(path, name, state)
            entries.append(entry)
            known[name] = entry
    finally:
        _remember(memory, known)
    return entries


def _read(path: Path, name: str, state: os.stat_result) -> Entry:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        fingerprint = str(imagehash.phash(open_picture(path, HASHED_SIDE_PX)))
    except (OSError, ValueError):
        fingerprint = ""
    return Entry(name, sha256, fingerprint, state.st_size, state.st_mtime_ns)


def _remembered(memory: Path) -> dict[str, Entry]:
    if not memory.exists():
        return {}
    found = json.loads(memory.read_text(encoding="utf-8"))
    return {fields["name"]: Entry(**fields) for fields in found}


def _remember(memory: Path, known: dict[str, Entry]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial = memory.with_name(f".{memory.name}.{os.getpid()}")
    partial.write_text(json.dumps([asdict(entry) for entry in known.values()]), encoding="utf-8")
    partial.replace(memory)
