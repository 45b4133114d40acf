"""Lines of printed receipts, and what an attacker wants each to say instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

import numpy as np

from codefend.lab.documents.document import Document, Fonts, Line
from codefend.lab.documents.kinds import draw_receipt

__all__ = ["WISHES", "AttackedLine", "Wish", "attacked_lines"]

Wish = Literal["amount", "name", "nothing"]
WISHES: tuple[Wish, ...] = ("amount", "name", "nothing")
_TEXT_SIZES_PX = (20, 24, 28, 32)
_MARGIN_PX = 6
_SEED = 77  # of receipts that no training draws


@dataclass(frozen=True, slots=True)
class AttackedLine:
    """One line of print.

    Attributes:
        image: (H, W, 3) uint8.
        truth: what it says.
        wish: what the attacker wants changed.
        target: what it shall say; empty for nothing.
        receipt: which receipt it is of; lines of one are a cluster.
    """

    image: np.ndarray
    truth: str
    wish: Wish
    target: str
    receipt: int


def attacked_lines(fonts: Fonts, *, num: int, seed: int = 0) -> list[AttackedLine]:
    """For each wish ``num`` lines: one amount, one name and one other line of every receipt.

    A changed amount has one other digit; a changed name is that of another thing on sale, as near
    in length as the receipt has one; nothing is no text at all.
    """
    found: list[AttackedLine] = []
    for receipt in islice(count(), num):
        rng = np.random.default_rng([seed, 13, receipt])
        size_px = int(rng.choice(_TEXT_SIZES_PX))
        document = draw_receipt(receipt, size_px, fonts, seed=_SEED + seed)
        found += _lines_of(document, receipt, rng)
    return found


def _lines_of(document: Document, number: int, rng: np.random.Generator) -> Iterator[AttackedLine]:
    amounts = [line for line in document.lines if line.text.replace(".", "", 1).isdigit()]
    rows = {round(line.box[1]) for line in amounts}
    names = [
        line
        for line in document.lines
        if line not in amounts and any(abs(line.box[1] - row) < 8 for row in rows)
    ]
    amount, name, other = (
        lines[int(rng.integers(len(lines)))] for lines in (amounts, names, amounts + names)
    )
    # By text too: the order of a set differs from process to process.
    others = sorted(
        {line.text for line in names} - {name.text},
        key=lambda text: (abs(len(text) - len(name.text)), text),
    )
    wishes: list[tuple[Wish, Line, str]] = [
        ("amount", amount, _other_digit(amount.text, rng)),
        ("name", name, others[0]),
        ("nothing", other, ""),
    ]
    for wish, line, target in wishes:
        yield AttackedLine(_crop(document.image, line), line.text, wish, target, number)


def _other_digit(text: str, rng: np.random.Generator) -> str:
    places = [place for place, character in enumerate(text) if character.isdigit()]
    place = int(rng.choice(places))
    digits = [d for d in "123456789" if d != text[place]]
    return text[:place] + digits[int(rng.integers(len(digits)))] + text[place + 1 :]


def _crop(image: np.ndarray, line: Line) -> np.ndarray:
    left, top, right, bottom = (round(edge) for edge in line.box)
    return image[
        max(0, top - _MARGIN_PX) : bottom + _MARGIN_PX,
        max(0, left - _MARGIN_PX) : right + _MARGIN_PX,
    ].copy()
