"""What breaks the defence, in a paragraph: read off the rows, the worst first."""

from __future__ import annotations

from collections.abc import Sequence

from codefend.lab.attacks.interface import Tier
from codefend.lab.experiments.report import Row, cell
from codefend.lab.labels import OURS

__all__ = ["findings"]

_CURVE = "-curve"
_WORDS = {
    Tier.OBLIVIOUS: "an attacker who does not know of it",
    Tier.TRANSFER: "one who attacks through a purifier of their own",
    Tier.WHITE_BOX: "one who attacks through the defence itself",
    Tier.RESUBMISSION: "one who sends the same image ten times",
    Tier.QUERY: "one who sees the service's answers alone",
}
_NUM_WORST = 3


def findings(rows: Sequence[Row]) -> str:
    """A section that says how far each attacker gets and which attacks get furthest.

    Args:
        rows: every figure; the first of our defences among them is spoken of.

    Returns:
        Markdown; empty where none of ours was attacked.
    """
    ours = next((name for name in OURS if any(row.defence == name for row in rows)), None)
    if ours is None:
        return ""
    own = [row for row in rows if row.defence == ours and _counts(row)]
    attacked = [row for row in own if row.attack != "none" and row.tier != Tier.CLEAN]
    if not attacked:
        return ""
    clean = next((row for row in own if row.tier == Tier.CLEAN), None)
    sentences = [f"Of the answers behind `{ours}`, {cell(clean)} are right on clean images."]
    for tier, who in _WORDS.items():
        found = [row for row in attacked if row.tier == tier]
        if found:
            worst = min(found, key=lambda row: row.value)
            sentences.append(f"{tier.upper()}, {who}, leaves {_left(worst)}.")
    worst_of_all = sorted(attacked, key=lambda row: row.value)[:_NUM_WORST]
    furthest = "; ".join(f"{row.tier.upper()} {_left(row)}" for row in worst_of_all)
    sentences.append(f"What goes furthest: {furthest}.")
    sentences += _better(rows, attacked)
    return "## What breaks the defence\n\n" + " ".join(sentences)


def _counts(row: Row) -> bool:
    """Accuracy, or the worst of ten sendings; single points of the step curve are no headline."""
    is_accuracy = row.metric == "accuracy" or row.metric.startswith("accuracy_worst_of")
    return row.task == "vqa" and is_accuracy and not row.attack.endswith(_CURVE)


def _left(row: Row) -> str:
    radius = f" at {round(row.epsilon * 255)}/255" if 0 < row.epsilon < 1 else ""
    return f"{cell(row)} by {row.attack}{radius} (n = {row.n})"


def _better(rows: Sequence[Row], attacked: Sequence[Row]) -> list[str]:
    """Where another defence holds better against the very same uploads."""
    ahead = []
    for row in attacked:
        same = (row.tier, row.attack, row.epsilon, row.metric, row.task, row.n)
        rivals = [
            other
            for other in rows
            if other.defence not in {*OURS, "none", "prompt"}
            and (other.tier, other.attack, other.epsilon, other.metric, other.task, other.n) == same
        ]
        best = max(rivals, key=lambda other: other.value, default=row)
        if best.low > row.high:
            ahead.append(f"{best.defence} under {row.tier.upper()} {row.attack} ({cell(best)})")
    return [f"Another defence does better: {'; '.join(ahead)}."] if ahead else []
