"""The report: ``report.json`` for programs, ``report.md`` with one table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.attacks.registry import AttackConfig
from lab.evaluate.files import write_atomically
from lab.evaluate.measures import Measure

__all__ = ["Row", "rows_of", "write_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure and everything that it holds for; epsilon is a fraction of the range."""

    tier: str
    attack: str
    family: str
    held_out: bool
    targeted: bool
    epsilon: float
    steps: int
    eot: int
    gradient: str
    restarts: int
    defence: str
    victim: str
    task: str | None
    metric: str
    value: float
    low: float
    high: float
    n: int
    seeds: int


def rows_of(
    measures: Sequence[Measure],
    *,
    tier: str,
    attack: AttackConfig | None,
    attack_label: str,
    defence: str,
    victim: str,
    seeds: int,
) -> list[Row]:
    """Figures as rows.

    Args:
        measures: the figures.
        tier: threat model.
        attack: None on clean images.
        attack_label: its name in the rows.
        defence: name of the condition.
        victim: name of the model.
        seeds: over how many seeds of the defence's noise they are means.
    """
    return [
        Row(
            tier=tier,
            attack=attack_label,
            family=attack.family if attack else "none",
            held_out=attack.is_held_out if attack else False,
            targeted=attack.targeted if attack else False,
            epsilon=attack.epsilon if attack else 0.0,
            steps=attack.steps if attack else 0,
            eot=1 if attack and attack.steps else 0,
            gradient="exact" if attack and attack.steps else "none",
            restarts=attack.restarts if attack else 0,
            defence=defence,
            victim=victim,
            task=task,
            metric=metric,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            n=figure.n,
            seeds=seeds,
        )
        for task, metric, figure in measures
    ]


def write_report(folder: Path, meta: dict[str, Any], rows: Sequence[Row], notes: str) -> str:
    """Writes ``report.json`` and ``report.md``, and returns the Markdown.

    Args:
        folder: where to.
        meta: commit, device, seed, date and weights.
        rows: every figure.
        notes: what the table's reader must know.
    """
    document = {"meta": meta, "rows": [asdict(row) for row in rows]}
    write_atomically(folder / "report.json", (json.dumps(document, indent=1) + "\n").encode())
    markdown = f"{_table(rows)}\n\n{notes}\n"
    write_atomically(folder / "report.md", markdown.encode())
    return markdown


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the table: which row of each defence it shows."""

    title: str
    metric: str
    task: str | None
    attack: str
    targeted: bool = False
    epsilon: float = 0.0

    def matches(self, row: Row) -> bool:
        return (row.metric, row.task, row.attack, row.targeted, row.epsilon) == (
            self.metric,
            self.task,
            self.attack,
            self.targeted,
            self.epsilon,
        )


def _columns(rows: Sequence[Row]) -> list[_Column]:
    columns = [
        _Column("clean VQA", "accuracy", "vqa", "none"),
        _Column("clean CIDEr", "cider", "caption", "none"),
        _Column("clean PSNR, dB", "psnr_db", None, "none"),
        _Column("clean SSIM", "ssim", None, "none"),
    ]
    attacks = sorted({(row.attack, row.epsilon) for row in rows if row.attack != "none"})
    for attack, epsilon in attacks:
        where = f"{attack} {round(epsilon * 255)}/255"
        columns += [
            _Column(f"{where} VQA", "accuracy", "vqa", attack, False, epsilon),
            _Column(f"{where} CIDEr", "cider", "caption", attack, False, epsilon),
            _Column(f"{where} targeted", "targeted_success", "caption", attack, True, epsilon),
            _Column(f"{where} PSNR, dB", "psnr_db", None, attack, False, epsilon),
        ]
    return [column for column in columns if any(column.matches(row) for row in rows)]


def _table(rows: Sequence[Row]) -> str:
    """One line a defence; a cell is the value and its 95 % interval."""
    columns = _columns(rows)
    lines = [
        "| defence | " + " | ".join(column.title for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for defence in dict.fromkeys(row.defence for row in rows):
        cells = []
        for column in columns:
            found = (row for row in rows if row.defence == defence and column.matches(row))
            cells.append(_cell(next(found, None)))
        lines.append(f"| {defence} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.metric in {"cider", "ssim"}:
        return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
    if row.metric == "psnr_db":
        return f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]"
    return f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]"
