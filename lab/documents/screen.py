"""A screenshot: a window with title bar, buttons, a list and a status bar; light or dark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codefend.lab.documents.document import Canvas, Color, Document, Font
from codefend.lab.documents.fonts import Fonts
from codefend.lab.documents.sentences import label, value

__all__ = ["draw_screen"]

WIDTH_PX = 512
NUM_ENTRIES = 5


@dataclass(frozen=True, slots=True)
class _Theme:
    paper: Color
    bar: Color
    bar_ink: Color
    button: Color
    button_ink: Color
    ink: Color
    faint_ink: Color
    rule: Color


_LIGHT = _Theme(
    paper=(255, 255, 255),
    bar=(232, 236, 242),
    bar_ink=(28, 30, 34),
    button=(226, 230, 236),
    button_ink=(30, 34, 40),
    ink=(28, 30, 34),
    faint_ink=(104, 110, 120),
    rule=(222, 224, 228),
)
_DARK = _Theme(
    paper=(30, 31, 34),
    bar=(44, 46, 51),
    bar_ink=(240, 240, 242),
    button=(56, 60, 68),
    button_ink=(245, 246, 250),
    ink=(226, 227, 230),
    faint_ink=(160, 164, 172),
    rule=(58, 60, 66),
)


def draw_screen(index: int, text_size_px: int, fonts: Fonts, *, seed: int = 0) -> Document:
    """A window 512 pixels wide; even ones are light, odd ones dark.

    Args:
        index: which window.
        text_size_px: em size of every text in it.
        fonts: typefaces.
        seed: of the texts.
    """
    rng = np.random.default_rng([seed, 1, index])
    theme = _DARK if index % 2 else _LIGHT
    font = fonts.font("sans", text_size_px, index // 2)
    row_px = round(1.9 * text_size_px)
    canvas = Canvas.blank(WIDTH_PX, (NUM_ENTRIES + 4) * row_px, theme.paper)
    _title_bar(canvas, label(rng), font, theme, row_px)
    _buttons(canvas, [label(rng).split()[0] for _ in range(4)], font, theme, row_px)
    for number in range(NUM_ENTRIES):
        top_px = round((2.6 + number) * row_px)
        _entry(canvas, (label(rng), value(rng)), font, theme, (top_px, row_px))
    _status_bar(canvas, f"{rng.integers(2, 90)} items", font, theme, row_px)
    return canvas.finish(kind="screen", text_size_px=text_size_px, index=index)


def _inset(row_px: int) -> float:
    """From the top of a row to the top of its letters."""
    return 0.2 * row_px


def _title_bar(canvas: Canvas, title: str, font: Font, theme: _Theme, row_px: int) -> None:
    canvas.draw.rectangle((0, 0, WIDTH_PX, row_px), fill=theme.bar)
    canvas.write((0.5 * row_px, _inset(row_px)), title, font, theme.bar_ink)


def _buttons(canvas: Canvas, words: list[str], font: Font, theme: _Theme, row_px: int) -> None:
    """As many as there is room for."""
    left, top = 0.4 * row_px, 1.35 * row_px
    for word in words:
        right = left + font.getlength(word) + 0.8 * row_px
        if right > WIDTH_PX:
            return
        box = (left, top, right, top + 0.95 * row_px)
        canvas.draw.rounded_rectangle(box, radius=row_px / 6, fill=theme.button)
        canvas.write((left + 0.4 * row_px, top + _inset(row_px)), word, font, theme.button_ink)
        left = right + 0.3 * row_px


def _entry(
    canvas: Canvas, texts: tuple[str, str], font: Font, theme: _Theme, place: tuple[int, int]
) -> None:
    """A line of the list: what it is at the left, its state at the right."""
    top, row_px = place
    name, state = texts
    canvas.draw.line((0, top, WIDTH_PX, top), fill=theme.rule)
    canvas.write((0.5 * row_px, top + _inset(row_px)), name, font, theme.ink)
    left = WIDTH_PX - 0.5 * row_px - font.getlength(state)
    if left > 1.2 * row_px + font.getlength(name):
        canvas.write((left, top + _inset(row_px)), state, font, theme.faint_ink)


def _status_bar(canvas: Canvas, text: str, font: Font, theme: _Theme, row_px: int) -> None:
    top = canvas.image.height - row_px
    canvas.draw.line((0, top, WIDTH_PX, top), fill=theme.faint_ink)
    canvas.write((0.5 * row_px, top + _inset(row_px)), text, font, theme.faint_ink)
