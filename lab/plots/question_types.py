"""Accuracy by type of question: one panel a type, one line a defence, clean beside attacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codefend.lab.labels import UNION
from codefend.lab.plots.files import new_figure
from codefend.lab.plots.palette import FAINT, INK, arranged, color_of, name_of
from codefend.lab.plots.rows import PlotRow, select
from codefend.lab.plots.tiers import MAIN_LEVELS, accuracies, main_attack, tier_title, worst_rows

__all__ = ["draw_question_types"]

_PARTS = {"purifier", "prompt"}
_COLUMNS = 3
_PREFIX = "accuracy:"


def draw_question_types(rows: Sequence[PlotRow], *, victim: str, tier: str) -> Any | None:
    """Accuracy by type of question at the main radius.

    Args:
        rows: a report's.
        victim: whose answers.
        tier: whose attacks.

    Returns:
        A matplotlib figure, or None where the tier has no such figures of this victim.
    """
    found = accuracies(rows, victim, tier)
    chosen = _attack_and_radius(found)
    if chosen is None:
        return None
    attack, levels = chosen
    of_victim = select(rows, victim=victim, task="vqa", targeted=False)
    attacked = [
        row
        for row in select(of_victim, tier=tier, attack=attack)
        if row.levels == levels and row.metric.startswith(_PREFIX)
    ]
    kinds = list(dict.fromkeys(row.metric.removeprefix(_PREFIX) for row in attacked))
    if not kinds:
        return None
    defences = [name for name in arranged(row.defence for row in found) if name not in _PARTS]
    num_rows = -(-len(kinds) // _COLUMNS)
    height_in = 1.0 + num_rows * (0.75 + 0.27 * len(defences))
    figure = new_figure(8.0, height_in)
    panels = figure.subplots(num_rows, _COLUMNS, sharey=True, sharex=True, squeeze=False)
    for kind, axes in zip(kinds, panels.flat, strict=False):
        clean = select(of_victim, metric=f"{_PREFIX}{kind}", attack="none")
        _draw_panel(axes, defences, clean, select(attacked, metric=f"{_PREFIX}{kind}"))
        _draw_prior(axes, select(of_victim, metric=f"question_only_accuracy:{kind}"))
        axes.set_title(kind, fontsize=11.5, fontweight="bold", color=INK, loc="left")
    for axes in list(panels.flat)[len(kinds) :]:
        axes.set_axis_off()
    _frame(panels, defences)
    top = 1 - 0.98 / height_in
    figure.subplots_adjust(
        left=0.125, right=0.985, bottom=0.42 / height_in, top=top, wspace=0.08, hspace=0.3
    )
    named = "the worst of all attacks" if attack == UNION else attack
    _titles(figure, tier, f"{named} at {levels}/255", height_in)
    return figure


def _attack_and_radius(rows: Sequence[PlotRow]) -> tuple[str, int] | None:
    """The worst of all attacks where it was taken, else the main one; 8/255 where it was tried."""
    attacked = [row for row in rows if row.attack == UNION]
    main = main_attack(rows)
    attacked = attacked or [row for row in rows if row.attack == main]
    if not attacked:
        return None
    row = min(attacked, key=lambda row: (row.levels != MAIN_LEVELS, -row.n))
    return row.attack, row.levels


def _draw_panel(
    axes: Any, defences: Sequence[str], clean: Sequence[PlotRow], attacked: Sequence[PlotRow]
) -> None:
    for height, defence in enumerate(defences):
        color = color_of(defence)
        for row in worst_rows(select(clean, defence=defence)):
            axes.plot(row.value, height, "o", mfc="white", mec=color, ms=6, mew=1.4, zorder=3)
        for row in worst_rows(select(attacked, defence=defence)):
            axes.plot([row.low, row.high], [height, height], color=color, lw=3.5, alpha=0.4)
            axes.plot(row.value, height, "o", color=color, ms=6.5, zorder=4)


def _draw_prior(axes: Any, rows: Sequence[PlotRow]) -> None:
    if rows:
        axes.axvline(rows[0].value, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)


def _frame(panels: Any, defences: Sequence[str]) -> None:
    for axes in panels.flat:
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(len(defences) - 0.5, -0.5)
        axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100"])
        axes.set_yticks(range(len(defences)), [name_of(name) for name in defences])
        axes.tick_params(length=0, colors=INK, labelsize=10)
        axes.grid(axis="both", color="#e9ecef", linewidth=0.8)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes in panels[:, 0]:
        for label, defence in zip(axes.get_yticklabels(), defences, strict=True):
            label.set_color(color_of(defence))
            label.set_fontweight("bold" if defence == "codefend" else "normal")


def _titles(figure: Any, tier: str, attack: str, height_in: float) -> None:
    figure.text(
        0.02, 1 - 0.3 / height_in, tier_title(tier), fontsize=13.5, fontweight="bold", color=INK
    )
    text = f"Right answers in %: ○ clean, ● {attack}. Bars: 95 %. Dotted: question alone."
    figure.text(0.02, 1 - 0.56 / height_in, text, fontsize=10.5, color=FAINT)
