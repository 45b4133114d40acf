"""All plots of a report: one of each kind for every tier and victim."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from codefend.lab.errors import LabError
from codefend.lab.plots.epsilon import draw_epsilon
from codefend.lab.plots.files import save_small
from codefend.lab.plots.question_types import draw_question_types
from codefend.lab.plots.rows import PlotRow, read_rows

__all__ = ["plot_report"]

_DRAWINGS = {"accuracy-by-epsilon": draw_epsilon, "accuracy-by-question": draw_question_types}


def plot_report(report: Path, out: Path) -> list[Path]:
    """Draws what a report holds, without evaluating anything.

    Args:
        report: a ``report.json``.
        out: folder of the PNG files; the first victim's bear the tier alone in their names.

    Returns:
        The files written.

    Raises:
        LabError: The file is no report, or nothing in it can be drawn.
    """
    rows = read_rows(report)
    victims = _victims(rows)
    written = []
    for tier in sorted({row.tier for row in rows} - {"clean"}):
        for number, victim in enumerate(victims):
            ending = "" if number == 0 else "-" + re.sub(r"[^a-z0-9]+", "-", victim.lower())
            for name, draw in _DRAWINGS.items():
                figure = draw(rows, victim=victim, tier=tier)
                if figure is not None:
                    path = out / f"{name}-{tier}{ending}.png"
                    save_small(figure, path)
                    written.append(path)
    if not written:
        raise LabError(f"{report} holds no accuracy under attack to draw")
    return written


def _victims(rows: Sequence[PlotRow]) -> list[str]:
    return list(dict.fromkeys(row.victim for row in rows if row.task == "vqa"))
