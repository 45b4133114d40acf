"""The table of what is noticed."""

from __future__ import annotations

from collections.abc import Sequence

from codefend.lab.experiments.report import Row, cell

__all__ = ["detection_table"]


def detection_table(rows: Sequence[Row]) -> str:
    """One line for each sample: AUROC, rate caught at 1 % false alarms, rate flagged."""
    lines = [
        "| tier | images | family | held out | ε | AUROC | caught at 1 % | flagged | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((row.tier, row.attack, row.targeted, row.epsilon) for row in rows)
    for kind in kinds:
        own = {
            row.metric: row
            for row in rows
            if (row.tier, row.attack, row.targeted, row.epsilon) == kind
        }
        flagged = own["flagged"]
        name = f"{flagged.attack}, targeted" if flagged.targeted else flagged.attack
        is_attack = "auroc" in own
        about = (
            [flagged.family, "yes" if flagged.held_out else "no", _radius(flagged.epsilon)]
            if is_attack
            else ["", "", ""]
        )
        figures = [cell(own.get(metric)) for metric in ("auroc", "tpr_at_1fpr", "flagged")]
        cells = [flagged.tier, name, *about, *figures, str(flagged.n)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _radius(epsilon: float) -> str:
    return f"{round(epsilon * 255)}/255" if epsilon < 1 else "its own"
