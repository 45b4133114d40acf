"""Kept work: whatever was made once is read from disk, so that an interrupted run resumes.

A key stands for all that made a thing: settings, weights, pixels, questions. Files are either whole
or absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from codefend.lab.attacks.pixels import decode_png

__all__ = ["Store", "digest_of", "write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside `path`, then renames; makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def digest_of(*parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for `parts` in a file name.

    Args:
        parts: JSON-able values, arrays, tensors, bytes, paths, dataclasses and models, nested.
    """
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@singledispatch
def _plain(value: Any) -> Any:
    """What JSON can hold of a value, enough to tell it from others."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
    raise TypeError(f"{type(value).__name__} does not say what made it: give its parts")


@_plain.register
def _(value: np.ndarray) -> Any:
    return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]


@_plain.register
def _(value: torch.Tensor) -> Any:
    return _plain(value.detach().cpu().numpy())


_plain.register(np.generic, lambda value: value.item())
_plain.register(bytes, lambda value: hashlib.sha256(value).hexdigest())
_plain.register(BaseModel, lambda value: value.model_dump(mode="json"))
_plain.register(Mapping, dict)
_plain.register(Path, str)


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of kept work.

    Attributes:
        folder: where it is.
    """

    folder: Path

    def json(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of `KEY.json`, as JSON gives it back; `make` makes it where it is missing."""
        path = self.folder / f"{key}.json"
        if not path.exists():
            write_atomically(path, json.dumps(make(), default=_plain).encode())
        return json.loads(path.read_text(encoding="utf-8"))

    def images(self, key: str, num: int, make: Callable[[], Sequence[bytes]]) -> list[np.ndarray]:
        """The images of the folder `KEY`; `make` gives their PNG files where one is missing.

        Returns:
            (H, W, 3) uint8 each, as read back from the files.
        """
        if not self.holds(key, num):
            for path, data in zip(self._paths(key, num), make(), strict=True):
                write_atomically(path, data)
        return [decode_png(path.read_bytes()) for path in self._paths(key, num)]

    def holds(self, key: str, num: int) -> bool:
        """Whether all `num` images are there."""
        return all(path.exists() for path in self._paths(key, num))

    def _paths(self, key: str, num: int) -> list[Path]:
        return [self.folder / key / f"{index:03d}.png" for index in range(num)]
