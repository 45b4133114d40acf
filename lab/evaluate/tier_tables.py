"""Tables of the tiers beyond T0: one line an attack and defence, for the people's report."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.report import Row, cell

__all__ = ["suite_table", "tier_tables"]

_TITLES = {
    Tier.TRANSFER: "T1: attacked through a surrogate purifier",
    Tier.WHITE_BOX: "T2: attacked through the defence itself",
    Tier.RESUBMISSION: "T3: the same upload again and again",
    Tier.QUERY: "T4: attacked by queries alone",
}
_METRICS = ("accuracy", "accuracy_worst_of", "accuracy_majority_of", "accuracy_lost", "cider")


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
