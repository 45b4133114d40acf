"""A sheet of pictures: a row a scene, a column a treatment, and under each what was said of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codefend.lab.plots.style import FAINT, INK, RIGHT, WRONG, new_figure

__all__ = ["SheetPanel", "SheetRow", "difference_image", "draw_sheet"]

_PANEL_IN, _GAP_IN, _MARGIN_IN, _QUESTIONS_IN = 1.8, 0.12, 0.15, 2.0
_LINE_IN, _TITLE_IN = 0.2, 0.35
_QUESTION_CHARACTERS = 27  # as many as fit the questions' column


@dataclass(frozen=True, slots=True)
class SheetPanel:
    """One picture.

    Attributes:
        title: shown above it, in the first row alone.
        image: (H, W, 3) uint8.
        answers: one a question of its row, or none at all.
        right: which answers are right, as many.
        note: what else to say under it.
    """

    title: str
    image: np.ndarray
    answers: tuple[str, ...] = ()
    right: tuple[bool, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        """Checks that every answer is marked."""
        if len(self.answers) != len(self.right):
            raise ValueError(f"{len(self.answers)} answers, {len(self.right)} marks")


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One scene: what was asked, and its pictures."""

    questions: tuple[str, ...]
    panels: tuple[SheetPanel, ...]


def difference_image(image: np.ndarray, reference: np.ndarray, *, gain: float = 8.0) -> np.ndarray:
    """What changed, made visible: grey where nothing did.

    Args:
        image: (H, W, 3) uint8.
        reference: of the same size.
        gain: levels shown for one level of difference.

    Returns:
        (H, W, 3) uint8: 128 + gain (image - reference), clamped.
    """
    difference = image.astype(np.float64) - reference.astype(np.float64)
    return np.clip(np.rint(128.0 + gain * difference), 0, 255).astype(np.uint8)


def draw_sheet(rows: Sequence[SheetRow], out: Path) -> None:
    """Draws the sheet: questions at the left, answers green where right and red where wrong.

    Args:
        rows: at least one, all with as many panels.
        out: file to write, PNG or, by its suffix, JPEG or WebP; its folder is made.

    Raises:
        ValueError: There are no rows, or they differ in their number of panels.
    """
    if len({len(row.panels) for row in rows}) != 1:
        raise ValueError("a sheet needs rows, all with the same number of panels")
    width_in = 2 * _MARGIN_IN + _QUESTIONS_IN + len(rows[0].panels) * (_PANEL_IN + _GAP_IN)
    heights_in = [_PANEL_IN + (_num_lines(row) + 0.9) * _LINE_IN for row in rows]
    height_in = _TITLE_IN + sum(heights_in)
    sheet = _Sheet(new_figure(width_in, height_in, dpi=110), width_in, height_in)
    top_in = _TITLE_IN
    for row, row_height_in in zip(rows, heights_in, strict=True):
        _draw_row(sheet, row, top_in, has_titles=top_in == _TITLE_IN)
        top_in += row_height_in
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.figure.savefig(out)


def _num_lines(row: SheetRow) -> int:
    return max(len(row.questions), any(panel.note for panel in row.panels))


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A figure measured in inches from its top left corner."""

    figure: Any
    width_in: float
    height_in: float

    def write(self, left_in: float, top_in: float, text: str, **style: Any) -> None:
        x, y = left_in / self.width_in, 1 - top_in / self.height_in
        # What a model says is text: a dollar sign in it begins no formula.
        self.figure.text(x, y, text, va="top", parse_math=False, **style)

    def show(self, left_in: float, top_in: float, image: np.ndarray) -> None:
        left, bottom = left_in / self.width_in, 1 - (top_in + _PANEL_IN) / self.height_in
        size = (_PANEL_IN / self.width_in, _PANEL_IN / self.height_in)
        axes = self.figure.add_axes((left, bottom, *size))
        axes.imshow(image, interpolation="lanczos")
        axes.set_axis_off()


def _draw_row(sheet: _Sheet, row: SheetRow, top_in: float, *, has_titles: bool) -> None:
    sheet.write(_MARGIN_IN, top_in, _numbered(row.questions), fontsize=9.5, color=INK)
    left_in = _MARGIN_IN + _QUESTIONS_IN
    for panel in row.panels:
        sheet.show(left_in, top_in, panel.image)
        if has_titles:
            sheet.write(left_in, top_in - 0.26, panel.title, fontsize=11, color=INK)
        below_in = top_in + _PANEL_IN + 0.08
        for line, (answer, is_right) in enumerate(zip(panel.answers, panel.right, strict=True)):
            text, color = f"{line + 1}  {_shortened(answer)}", RIGHT if is_right else WRONG
            sheet.write(left_in, below_in, text, fontsize=9.5, fontweight="bold", color=color)
            below_in += _LINE_IN
        sheet.write(left_in, below_in, panel.note, fontsize=9, color=FAINT)
        left_in += _PANEL_IN + _GAP_IN


def _numbered(questions: Sequence[str]) -> str:
    """The questions below each other, wrapped, each with its number."""
    paragraphs = [
        textwrap.fill(
            question,
            _QUESTION_CHARACTERS,
            initial_indent=f"{number}  ",
            subsequent_indent="    ",
        )
        for number, question in enumerate(questions, start=1)
    ]
    return "\n".join(paragraphs)


def _shortened(text: str, longest: int = 24) -> str:
    """One line that fits under a picture; what cannot be printed becomes a dot."""
    line = "".join(c if c.isprintable() else "·" for c in " ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
