"""Tables of the tiers beyond T0: one line an attack and defence, for the people's report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from codefend.lab.attacks.interface import Tier
from codefend.lab.experiments.report import Row, cell

__all__ = ["oblivious_table", "suite_table", "tier_tables"]

_TITLES = {
    Tier.TRANSFER: "T1: attacked through a surrogate purifier",
    Tier.WHITE_BOX: "T2: attacked through the defence itself",
    Tier.RESUBMISSION: "T3: the same upload again and again",
    Tier.QUERY: "T4: attacked by queries alone",
}
_METRICS = ("accuracy", "accuracy_worst_of", "accuracy_majority_of", "accuracy_lost", "cider")


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


def oblivious_table(rows: Sequence[Row]) -> str:
    """Clean and T0, one line a defence; empty where nothing of either was measured."""
    rows = [row for row in rows if row.tier in {Tier.CLEAN, Tier.OBLIVIOUS}]
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


def tier_tables(rows: Sequence[Row]) -> list[str]:
    """A Markdown section for each tier beyond T0 that has rows."""
    sections = []
    for tier, title in _TITLES.items():
        own = [row for row in rows if row.tier == tier]
        if own:
            sections.append(f"## {title}\n\n{_table(own)}")
    return sections


def suite_table(rows: Sequence[Row], attacks: Collection[str]) -> list[str]:
    """A Markdown section with one line an attack of the suite: VQA accuracy behind each defence."""
    own = [
        row
        for row in rows
        if row.attack in attacks
        and (row.tier, row.task, row.metric) == (Tier.OBLIVIOUS, "vqa", "accuracy")
    ]
    if not own:
        return []
    defences = list(dict.fromkeys(row.defence for row in own))
    heads = ["attack", "family", "held out", *defences, "n"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for attack in dict.fromkeys(row.attack for row in own):
        found = {row.defence: row for row in own if row.attack == attack}
        first = next(iter(found.values()))
        about = [attack, first.family, "yes" if first.held_out else "no"]
        cells = [cell(found.get(defence)) for defence in defences]
        lines.append("| " + " | ".join([*about, *cells, str(first.n)]) + " |")
    return ["## T0: the attack suite, answers right\n\n" + "\n".join(lines)]


def _table(rows: Sequence[Row]) -> str:
    metrics = [
        metric
        for metric in dict.fromkeys(row.metric for row in rows)
        if metric.startswith(_METRICS) and ":" not in metric and not metric.endswith("of_clean")
    ]
    heads = ["defence", "attack", "gradient", "radius", "steps", "EOT", *metrics, "n"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        radius = f"{round(row.epsilon * 255)}/255" if row.epsilon else ""
        key: tuple[str, ...] = (
            row.defence,
            row.attack,
            row.gradient,
            radius,
            str(row.steps),
            str(row.eot),
        )
        groups.setdefault(key, {})[row.metric] = row
    for key, found in groups.items():
        cells = [cell(found.get(metric)) for metric in metrics]
        num = found["accuracy"].n if "accuracy" in found else max(row.n for row in found.values())
        lines.append("| " + " | ".join([*key, *cells, str(num)]) + " |")
    return "\n".join(lines)
