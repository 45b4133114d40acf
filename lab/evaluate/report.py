"""The report: ``report.json`` for programs, ``report.md`` with one table for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.evaluate.files import write_atomically
from codefend.lab.evaluate.measures import Measure

__all__ = ["Row", "Threat", "cell", "rows_of", "rows_under", "write_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """Who attacked how; epsilon is a fraction of the range."""

    tier: str
    attack: str
    family: str = "none"
    held_out: bool = False
    targeted: bool = False
    epsilon: float = 0.0
    steps: int = 0
    eot: int = 0
    gradient: str = "none"
    restarts: int = 0

    @classmethod
    def of(cls, attack: AttackConfig | None, *, tier: str, label: str) -> Threat:
        """An attack on the undefended model, or none at all, under its name in the rows."""
        if attack is None:
            return cls(tier=tier, attack=label)
        return cls(
            tier=tier,
            attack=label,
            family=attack.family,
            held_out=attack.is_held_out,
            targeted=attack.targeted,
            epsilon=attack.epsilon,
            steps=attack.steps,
            eot=1 if attack.steps else 0,
            gradient="exact" if attack.steps else "none",
            restarts=attack.restarts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Threat):
    """One figure and everything that it holds for."""

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
    threat = Threat.of(attack, tier=tier, label=attack_label)
    return rows_under(threat, measures, defence=defence, victim=victim, seeds=seeds)


def rows_under(
    threat: Threat, measures: Sequence[Measure], *, defence: str, victim: str, seeds: int
) -> list[Row]:
    """Figures under one threat as rows; see ``rows_of``."""
    return [
        Row(
            **asdict(threat),
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


def write_report(
    folder: Path,
    meta: dict[str, Any],
    rows: Sequence[Row],
    notes: str,
    *,
    banner: str = "",
    tables: Sequence[str] = (),
    told_apart: Collection[str] = (),
    checks: Sequence[dict[str, Any]] = (),
) -> str:
    """Writes ``report.json`` and ``report.md``, and returns the Markdown.

    Args:
        folder: where to.
        meta: commit, device, seed, date and weights.
        rows: every figure.
        notes: what the table's reader must know.
        banner: what the reader must see before any figure.
        tables: of the suite and of the tiers beyond T0, in Markdown.
        told_apart: attacks of T0 that one of ``tables`` shows.
        checks: name, outcome and reason of each check of the rows.
    """
    document: dict[str, Any] = {"meta": meta, "rows": [asdict(row) for row in rows]}
    if checks:
        document["checks"] = list(checks)
    write_atomically(folder / "report.json", (json.dumps(document, indent=1) + "\n").encode())
    oblivious = [
        row
        for row in rows
        if row.tier in {Tier.CLEAN, Tier.OBLIVIOUS} and row.attack not in told_apart
    ]
    parts = [banner, _table(oblivious), *tables, notes]
    markdown = "\n\n".join(part for part in parts if part) + "\n"
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
    """One line a defence; a cell is the value and its 95 % interval. Empty without columns."""
    columns = _columns(rows)
    if not columns:
        return ""
    lines = [
        "| defence | " + " | ".join(column.title for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for defence in dict.fromkeys(row.defence for row in rows):
        cells = []
        for column in columns:
            found = (row for row in rows if row.defence == defence and column.matches(row))
            cells.append(cell(next(found, None)))
        lines.append(f"| {defence} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(row: Row | None) -> str:
    """A figure with its interval, as tables show it; empty where there is none."""
    if row is None:
        return ""
    if row.metric.startswith(("cider", "ssim")):
        return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
    if row.metric == "psnr_db":
        return f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]"
    return f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]"
