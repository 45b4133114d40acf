"""``fidelity.json`` for programs and ``fidelity.md`` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codefend.lab.experiments.report import Row
from codefend.lab.experiments.store import write_atomically

__all__ = ["write_fidelity"]

_TITLES = {"photo": "Photos", "scene": "Scenes", "text": "Text"}


def write_fidelity(folder: Path, meta: dict[str, Any], rows: Sequence[Row]) -> str:
    """Writes both files, and returns the Markdown.

    Args:
        folder: where to.
        meta: the evaluation's, with ``defences``, name to setting, and ``reader``.
        rows: every figure.
    """
    document = {"meta": meta, "rows": [asdict(row) for row in rows]}
    write_atomically(folder / "fidelity.json", (json.dumps(document, indent=1) + "\n").encode())
    markdown = _markdown(meta, rows)
    write_atomically(folder / "fidelity.md", markdown.encode())
    return markdown


def _markdown(meta: dict[str, Any], rows: Sequence[Row]) -> str:
    parts = ["# What defences do to images that nobody attacked", _likeness(rows)]
    if any(row.metric.startswith("character_error_rate") for row in rows):
        parts += ["## Reading", _reading_notes(meta), _reading(rows)]
    settings = [f"- {name}: {text}" for name, text in meta["defences"].items()]
    parts += ["\n".join(["Settings:", "", *settings]), _NOTES]
    return "\n\n".join(parts) + "\n"


_NOTES = (
    "Images keep their size; of larger ones the middle 512 × 512 pixels are taken. Brackets are "
    "95 % intervals by a bootstrap that draws whole photos, scenes, or pages with all their text "
    "sizes; random defences are means over the seeds of their noise, and their images count once."
)


def _reading_notes(meta: dict[str, Any]) -> str:
    return (
        f"Read by {meta['reader']}. The first line is the character error rate without a defence "
        "(edits over characters of the truth); the others are what a defence adds to it, in "
        "percentage points."
    )


def _likeness(rows: Sequence[Row]) -> str:
    """PSNR, SSIM and perceptual distance: one line a defence, one column a task and metric."""
    columns = [
        (task, metric)
        for task in _TITLES
        for metric in ("psnr_db", "ssim", "perceptual")
        if any((row.task, row.metric) == (task, metric) for row in rows)
    ]
    names = {"psnr_db": "PSNR, dB", "ssim": "SSIM", "perceptual": "perceptual distance"}
    titles = [f"{_TITLES[task]}: {names[metric]}" for task, metric in columns]
    defences = dict.fromkeys(row.defence for row in rows if row.metric == "psnr_db")
    lines = [
        [name, *(_cell(rows, name, task, metric) for task, metric in columns)] for name in defences
    ]
    return _table(["defence", *titles], lines)


def _reading(rows: Sequence[Row]) -> str:
    """Character error rates: one column a kind of document and text size."""
    prefix = "character_error_rate"
    columns = [
        row.metric.removeprefix(prefix)
        for row in rows
        if row.defence == "none" and row.metric.startswith(prefix)
    ]
    defences = [name for name in dict.fromkeys(row.defence for row in rows) if name != "none"]
    titles = ["all", *(column[1:].replace(":", " ") for column in columns[1:])]
    lines = [["none, rate", *(_cell(rows, "none", "text", f"{prefix}{c}") for c in columns)]]
    lines += [
        [name, *(_cell(rows, name, "text", f"{prefix}_rise{c}") for c in columns)]
        for name in defences
    ]
    # Parts below each other: there are more of them than a page is wide.
    header, *body = zip(["", *titles], *lines, strict=True)
    return _table(list(header), [list(line) for line in body])


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*head, *("| " + " | ".join(line) + " |" for line in lines)])


def _cell(rows: Sequence[Row], defence: str, task: str, metric: str) -> str:
    wanted = (defence, task, metric)
    row = next((r for r in rows if (r.defence, r.task, r.metric) == wanted), None)
    if row is None:
        return ""
    if metric.startswith("character_error_rate_rise"):
        return f"{_points(row.value)} [{_points(row.low)}, {_points(row.high)}]"
    if metric.startswith("character_error_rate"):
        return f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]"
    digits = 1 if metric == "psnr_db" else 3
    return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"


def _points(share: float) -> str:
    """Percentage points with their sign; what rounds to nothing is +0.0, never -0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"
