"""Saves a figure as a small PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["new_figure", "save_small"]

NUM_COLORS = 128


def new_figure(width_in: float, height_in: float, *, dpi: int = 125) -> Any:
    """An empty figure that needs no display and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=dpi, facecolor="white")


def save_small(figure: Any, path: Path) -> None:
    """Writes the figure with 128 colours: a line drawing loses nothing and a third is left.

    Args:
        figure: of matplotlib.
        path: PNG to write; its folder is made.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as drawn:
        indexed = drawn.convert("RGB").quantize(NUM_COLORS, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    indexed.save(path, format="PNG", optimize=True)
