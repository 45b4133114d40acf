"""The classifiers' report: a table each, every family of defences at its best, and what to know."""

from __future__ import annotations

from collections.abc import Sequence

from codefend.lab.attacks.interface import Tier
from codefend.lab.classification.evaluation import ClassificationPlan
from codefend.lab.classification.white_box import WhiteBoxPlan
from codefend.lab.classification.windows import LEAST_CONFIDENCE, SIDE_PX
from codefend.lab.encoders.encoder import CLASSIFIERS
from codefend.lab.experiments.report import Row, cell
from codefend.lab.labels import UNION

__all__ = ["best_at", "classification_notes", "classification_tables"]

CLEAN_TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5)


def classification_notes(plan: ClassificationPlan, white_box: WhiteBoxPlan | None) -> str:
    """What a reader of the tables must know."""
    training, *held_out = CLASSIFIERS
    notes = (
        f"T0: {plan.attack}, {plan.steps} steps, by cross-entropy and by margin, on the undefended "
        "classifier; each figure is the share of windows whose class is that of the clean, "
        f"undefended window, worst of both attacks. Windows are {SIDE_PX} pixels wide; only those "
        f"whose likeliest class has at least {LEAST_CONFIDENCE:.0%} unattacked are asked about, "
        "chosen before any attack. Brackets are 95 % intervals by a bootstrap over whole things or "
        f"photos. {training} may train a purifier; {' and '.join(held_out)} never do, the first of "
        f"them {training}'s own family, the second another one. At equal clean agreement the best "
        "setting of each kind of defence is read off the same windows, which flatters all kinds "
        "alike, and those with more settings a little more."
    )
    if white_box is None:
        return notes
    return (
        f"{notes}\n\nT2: {white_box.num_windows} windows, attacked through the defence by the "
        f"margin, at most {white_box.steps} steps of PGD on the mean of {white_box.num_draws} "
        "draws of its noise; exact gradients where there are any, else the union of the "
        "surrogate's and BPDA's. So few windows tell a defence that stands from one that falls, "
        "and no more."
    )


def classification_tables(rows: Sequence[Row], victims: Sequence[str]) -> list[str]:
    """Of each victim all defences, then each kind at equal clean agreement; T2 last."""
    tables = [table for name in victims for table in (_table(rows, name), _best(rows, name))]
    adaptive = [row for row in rows if row.tier == Tier.WHITE_BOX]
    return [*tables, *([_white_box(adaptive)] if adaptive else [])]


def best_at(rows: Sequence[Row], victim: str, least_clean: float) -> dict[str, tuple[Row, ...]]:
    """Of each kind of defence the setting that restores most, among those that keep enough.

    Args:
        rows: of T0 and of clean windows.
        victim: whose.
        least_clean: agreement on clean windows that a setting must keep, a fraction.

    Returns:
        Kind to its clean row, then a row for each ε, in rising order.
    """
    own = [row for row in rows if row.victim == victim]
    clean = {row.defence: row for row in own if row.tier == Tier.CLEAN}
    best: dict[str, tuple[Row, ...]] = {}
    for name, row in clean.items():
        union = [r for r in own if r.defence == name and (r.tier, r.attack) == ("t0", UNION)]
        found = (row, *sorted(union, key=lambda r: r.epsilon))
        kind = name.split(" ")[0]
        if row.value >= least_clean and (kind not in best or _mean(found) > _mean(best[kind])):
            best[kind] = found
    return best


def _mean(found: Sequence[Row]) -> float:
    return sum(row.value for row in found[1:])


def _table(rows: Sequence[Row], victim: str) -> str:
    shown = {Tier.CLEAN: "none", Tier.OBLIVIOUS: UNION}
    own = [r for r in rows if r.victim == victim and shown.get(Tier(r.tier)) == r.attack]
    columns = sorted({row.epsilon for row in own})
    lines = [*_heads(victim, columns, "n")]
    for defence in dict.fromkeys(row.defence for row in own):
        found: dict[float, Row] = {row.epsilon: row for row in own if row.defence == defence}
        cells = [cell(found.get(epsilon)) for epsilon in columns]
        lines.append(f"| {defence} | " + " | ".join(cells) + f" | {found[columns[0]].n} |")
    return "\n".join(lines)


def _best(rows: Sequence[Row], victim: str) -> str:
    """Restored at the best setting that keeps so much of the clean windows."""
    epsilons = sorted({row.epsilon for row in rows if row.victim == victim and row.epsilon})
    kinds = dict.fromkeys(
        row.defence.split(" ")[0] for row in rows if row.victim == victim and row.defence != "none"
    )
    heads = [f"clean ≥ {least:.0%}" for least in CLEAN_TARGETS]
    lines = [
        f"| {victim}: restored at {', '.join(_name(e) for e in epsilons)} | "
        + " | ".join(heads)
        + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for kind in kinds:
        cells = []
        for least in CLEAN_TARGETS:
            found = best_at(rows, victim, least).get(kind)
            values = " / ".join(f"{row.value:.0%}" for row in found[1:]) if found else "–"
            setting = found[0].defence.removeprefix(kind).strip() if found else ""
            cells.append(f"{values} ({setting})" if setting else values)
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _white_box(rows: Sequence[Row]) -> str:
    columns = sorted({(row.victim, row.epsilon) for row in rows})
    lines = [
        "| T2: predictions left | " + " | ".join(f"{v}, {_name(e)}" for v, e in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for defence in dict.fromkeys(row.defence for row in rows):
        found = {(r.victim, r.epsilon): r for r in rows if r.defence == defence}
        cells = [f"{cell(found.get(column))}" for column in columns]
        lines.append(f"| {defence} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _heads(title: str, columns: Sequence[float], last: str) -> list[str]:
    names = [_name(epsilon) for epsilon in columns]
    return [f"| {title} | " + " | ".join(names) + f" | {last} |", "|---" * (len(names) + 2) + "|"]


def _name(epsilon: float) -> str:
    return f"{round(epsilon * 255)}/255" if epsilon else "clean"
