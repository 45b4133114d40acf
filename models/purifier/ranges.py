"""The file of what a purifier's convolutions read: it says how they run in 8-bit integers.

Free of torch: whoever finds a converted network needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from codefend.models.manifest import weights_sha256

__all__ = ["RANGES_NAME", "Ranges", "read_ranges", "write_ranges"]

RANGES_NAME = "int8.json"
"""Of the file beside the weights that holds the ranges."""

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest value that a convolution reads, by its name in the network."""


def read_ranges(folder: Path) -> Ranges | None:
    """The ranges that were measured for a folder's weights; None where none were.

    Raises:
        ValueError: They are malformed, or of other weights than lie there now.
    """
    file = folder / RANGES_NAME
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        weights, ranges = found["weights"], found["ranges"]
        read = {str(name): (float(low), float(high)) for name, (low, high) in ranges.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} holds no ranges: {error}") from error
    if weights != weights_sha256(folder):
        raise ValueError(f"{file} is of other weights: measure it again, or remove it")
    return read


def write_ranges(folder: Path, ranges: Ranges) -> None:
    """Keeps ranges beside the weights that they were measured of."""
    rounded = {name: [round(low, 4), round(high, 4)] for name, (low, high) in ranges.items()}
    told = {"weights": weights_sha256(folder), "ranges": rounded}
    (folder / RANGES_NAME).write_text(json.dumps(told) + "\n", encoding="utf-8")
