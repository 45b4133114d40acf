"""Text drawn with Pillow's own font, for the attacks that write on an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["board"]

_PAPER, _INK = (250, 248, 235), (20, 20, 25)
_LEAST_SIZE = 7  # below, Pillow's font can no longer be read


def board(lines: Sequence[str], height: int, width: int, *, area: int | None = None) -> np.ndarray:
    """Dark text on a light board, as large as fits.

    Args:
        lines: what is written.
        height: greatest height of the board, in pixels.
        width: greatest width of the board, in pixels.
        area: greatest number of its pixels; height times width where None.

    Returns:
        (rows, columns, 3) uint8, just large enough for the text.

    Raises:
        ValueError: where even the smallest letters do not fit.
    """
    text = "\n".join(lines)
    for size in range(height, _LEAST_SIZE - 1, -1):
        drawn = _draw(text, size)
        rows, columns, _ = drawn.shape
        if rows <= height and columns <= width and rows * columns <= (area or height * width):
            return drawn
    raise ValueError(f"{text!r} cannot be written on {area or height * width} pixels")


def _draw(text: str, size: int) -> np.ndarray:
    font = ImageFont.load_default(size)
    scratch = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = scratch.multiline_textbbox((0, 0), text, font=font)
    margin = max(1, size // 6)
    sides = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
    paper = Image.new("RGB", sides, _PAPER)
    ImageDraw.Draw(paper).multiline_text((margin - left, margin - top), text, _INK, font=font)
    return np.asarray(paper)
