"""Which weights a directory holds, in one hash; caches and reports name them by it."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["weights_sha256"]


def weights_sha256(directory: Path) -> str:
    """The sha256 of the one safetensors file below ``directory``, hexadecimal.

    Where there are several, the sha256 of their hashes, sorted by path, one a line; where there
    are none, the empty string.
    """
    digests = []
    for path in sorted(directory.rglob("*.safetensors")):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) <= 1:
        return "".join(digests)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
