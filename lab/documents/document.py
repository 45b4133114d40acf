"""A picture of text and its truth, and the canvas that the kinds of documents are drawn on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Box", "Canvas", "Color", "Document", "Font", "Line"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

Color = tuple[int, int, int]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Line:
    """A run of text and where it stands."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Document:
    """A picture of text.

    Attributes:
        image: (H, W, 3) uint8.
        lines: all that it says, in no particular order.
        kind: ``page``, ``screen`` or ``receipt``.
        text_size_px: the em size of every letter.
        index: its number; documents of one kind and number say the same in every size, as far
            as there is room.
    """

    image: np.ndarray
    lines: tuple[Line, ...]
    kind: str
    text_size_px: int
    index: int

    @property
    def num_characters(self) -> int:
        """Characters of the truth, blanks inside lines counted."""
        return sum(len(line.text) for line in self.lines)


@dataclass(slots=True)
class Canvas:
    """Draws text and shapes, and remembers what was written where.

    Attributes:
        image: RGB; whoever draws shapes draws on ``draw``.
        draw: Pillow's pen on it.
        lines: what was written.
    """

    image: Image.Image
    draw: ImageDraw.ImageDraw = field(init=False)
    lines: list[Line] = field(init=False)

    def __post_init__(self) -> None:
        """Takes up the pen."""
        self.draw = ImageDraw.Draw(self.image)
        self.lines = []

    @classmethod
    def blank(cls, width_px: int, height_px: int, paper: Color) -> Canvas:
        """A canvas of one colour."""
        return cls(Image.new("RGB", (width_px, height_px), paper))

    def write(self, at: tuple[float, float], text: str, font: Font, ink: Color) -> None:
        """Writes one line with its top left corner at ``at``."""
        if text:
            self.draw.text(at, text, font=font, fill=ink)
            left, top, right, bottom = self.draw.textbbox(at, text, font=font)
            self.lines.append(Line(text, (left, top, right, bottom)))

    def finish(self, *, kind: str, text_size_px: int, index: int) -> Document:
        """The document as drawn so far."""
        return Document(np.asarray(self.image), tuple(self.lines), kind, text_size_px, index)
