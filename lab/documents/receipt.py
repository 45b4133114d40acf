"""A till receipt: a fixed-width face in columns, names at the left, prices at the right."""

from __future__ import annotations

import numpy as np

from codefend.lab.documents.document import Canvas, Color, Document
from codefend.lab.documents.fonts import Fonts
from codefend.lab.documents.sentences import amount, shop, ware

__all__ = ["draw_receipt"]

NUM_COLUMNS = 24
NUM_WARES = 6
_PAPER: Color = (252, 251, 247)
_INK: Color = (52, 52, 58)


def draw_receipt(index: int, text_size_px: int, fonts: Fonts, *, seed: int = 0) -> Document:
    """A shop's name, six wares, a total that adds up, and a date.

    Args:
        index: which receipt.
        text_size_px: em size.
        fonts: typefaces.
        seed: of the wares.
    """
    rng = np.random.default_rng([seed, 2, index])
    font = fonts.font("mono", text_size_px, index)
    advance_px, pitch_px = font.getlength("0"), round(1.35 * text_size_px)
    rows = _rows(rng)
    width_px = round((NUM_COLUMNS + 2) * advance_px)
    canvas = Canvas.blank(width_px, (len(rows) + 2) * pitch_px, _PAPER)
    for number, (left, right) in enumerate(rows):
        top_px = (1 + number) * pitch_px
        canvas.write((advance_px, top_px), left, font, _INK)
        end_px = width_px - advance_px - font.getlength(right)
        canvas.write((end_px, top_px), right, font, _INK)
    return canvas.finish(kind="receipt", text_size_px=text_size_px, index=index)


def _rows(rng: np.random.Generator) -> list[tuple[str, str]]:
    prices = [amount(rng) for _ in range(NUM_WARES)]
    date = f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(2015, 2027)}"
    time = f"{rng.integers(8, 21):02d}:{rng.integers(0, 60):02d}"
    return [
        (shop(rng), ""),
        (date, time),
        ("", ""),
        *((ware(rng), _price(price)) for price in prices),
        ("", ""),
        ("TOTAL", _price(sum(prices))),
        (f"Receipt no. {rng.integers(1000, 9999)}", ""),
        ("Thank you for your visit", ""),
    ]


def _price(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"
