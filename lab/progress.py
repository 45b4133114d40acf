"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm import tqdm

__all__ = ["progress"]

_QUIET_S = 30.0

T = TypeVar("T")


@overload
def progress(items: Iterable[T], **options: Any) -> tqdm[T]: ...


@overload
def progress(items: None = None, **options: Any) -> tqdm[Any]: ...


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A ``tqdm`` bar with its expected time; off a terminal it speaks every half minute only.

    Args:
        items: what is gone through; None where ``total`` and ``update`` are used.
        options: ``tqdm``'s.
    """
    if not sys.stderr.isatty():
        options = {"delay": _QUIET_S, "mininterval": _QUIET_S, **options}
    return tqdm(items, **options)
