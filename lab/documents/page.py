"""A page of running text, dark on light paper."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from codefend.lab.documents.document import Canvas, Color, Document, Font
from codefend.lab.documents.fonts import Fonts, Style
from codefend.lab.documents.sentences import sentences

__all__ = ["draw_page"]

WIDTH_PX = 512
NUM_LINES = 9
_PAPERS: tuple[Color, ...] = ((255, 255, 255), (250, 246, 236), (238, 240, 243))
_INK: Color = (24, 24, 28)
_STYLES: tuple[Style, ...] = ("serif", "sans")


def draw_page(index: int, text_size_px: int, fonts: Fonts, *, seed: int = 0) -> Document:
    """Nine lines of sentences, as wide as 512 pixels allow.

    Args:
        index: which page; serif and sans serif faces and papers take turns.
        text_size_px: em size.
        fonts: typefaces.
        seed: of the text.
    """
    rng = np.random.default_rng([seed, 0, index])
    font = fonts.font(_STYLES[index % 2], text_size_px, index // 2)
    margin_px, pitch_px = text_size_px, round(1.4 * text_size_px)
    height_px = 2 * margin_px + NUM_LINES * pitch_px
    canvas = Canvas.blank(WIDTH_PX, height_px, _PAPERS[index % len(_PAPERS)])
    lines = _wrapped(sentences(rng), font, WIDTH_PX - 2 * margin_px)
    for number in range(NUM_LINES):
        canvas.write((margin_px, margin_px + number * pitch_px), next(lines), font, _INK)
    return canvas.finish(kind="page", text_size_px=text_size_px, index=index)


def _wrapped(texts: Iterator[str], font: Font, width_px: int) -> Iterator[str]:
    """Fills lines with whole words."""
    line = ""
    for text in texts:
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width_px:
                yield line
                longer = word
            line = longer
