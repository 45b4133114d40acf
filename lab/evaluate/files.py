"""Files that are either whole or absent, so that an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["digest_of", "write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside ``path``, then renames; makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def digest_of(*parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for JSON-able ``parts`` in a file name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
