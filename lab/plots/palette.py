"""How each defence looks in every plot: its colour, its name for people, its place."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

__all__ = ["FAINT", "INK", "arranged", "color_of", "name_of"]

INK = "#24292f"
FAINT = "#6e7781"

# Okabe & Ito 2008, told apart by colour-blind readers; ours is the strongest.
_LOOKS: Mapping[str, tuple[str, str]] = {
    "codefend": ("CoDefend", "#0060a8"),
    "purifier": ("purifier alone", "#56b4e9"),
    "prompt": ("prompt alone", "#a8a030"),
    "diffpure": ("DiffPure", "#d55e00"),
    "autoencoder": ("autoencoder alone", "#8c6d31"),
    "jpeg": ("JPEG", "#009e73"),
    "median": ("median", "#7a4fa3"),
    "blur": ("blur", "#c98a00"),
    "bit_depth": ("bit depth", "#cc6699"),
    "none": ("no defence", "#57606a"),
}
_SPARE = ("#8c564b", "#2f7f8f", "#9a3b3b", "#5b7f2b")


def color_of(defence: str) -> str:
    """The defence's colour; an unknown one always gets the same spare one."""
    if defence in _LOOKS:
        return _LOOKS[defence][1]
    return _SPARE[zlib.crc32(defence.encode()) % len(_SPARE)]


def name_of(defence: str) -> str:
    """What people call it."""
    return _LOOKS[defence][0] if defence in _LOOKS else defence.replace("_", " ")


def arranged(defences: Iterable[str]) -> list[str]:
    """Each once: ours, DiffPure, filters, unknown ones, no defence."""
    order = [name for name in _LOOKS if name != "none"]
    present = set(defences)
    known = [name for name in order if name in present]
    unknown = sorted(present - set(_LOOKS))
    return [*known, *unknown, *(["none"] if "none" in present else [])]
