"""Accuracy against the attack's radius: one line a defence, with its interval as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codefend.lab.labels import UNION
from codefend.lab.plots.axes import show_percent
from codefend.lab.plots.files import new_figure
from codefend.lab.plots.palette import FAINT, INK, arranged, color_of, name_of
from codefend.lab.plots.rows import PlotRow, select
from codefend.lab.plots.tiers import accuracies, main_attack, tier_title, worst_rows

__all__ = ["draw_epsilon", "spread"]

# Parts of ours: they have no line of their own beside the whole.
_PARTS = {"purifier", "prompt"}
_LABEL_GAP = 0.052


def draw_epsilon(rows: Sequence[PlotRow], *, victim: str, tier: str) -> Any | None:
    """Accuracy against epsilon for ours, DiffPure and the filters.

    Lines join the points of the attack that was tried at most radii; a diamond is the worst of all
    attacks, where the report has it beside that attack.

    Args:
        rows: a report's.
        victim: whose answers.
        tier: whose attacks.

    Returns:
        A matplotlib figure, or None where the tier attacked this victim with nothing, or every
        defence at one radius alone.
    """
    found = accuracies(rows, victim, tier)
    attack = main_attack(found)
    if attack is None:
        return None
    figure = new_figure(8.0, 5.0)
    axes = figure.add_axes((0.08, 0.12, 0.70, 0.74))
    lines = {}
    for defence in arranged(row.defence for row in found):
        if defence in _PARTS:
            continue
        own = select(found, defence=defence)
        points = worst_rows([row for row in own if row.attack in ("none", attack)])
        if len(points) > 1:
            lines[defence] = points
            _draw_line(axes, defence, points)
            if attack != UNION:
                _draw_worst(axes, defence, worst_rows(select(own, attack=UNION)))
    if not lines:  # of one radius alone there is no curve
        return None
    _draw_prior(axes, select(rows, victim=victim, metric="question_only_accuracy"))
    _label_lines(axes, lines)
    _frame(axes, sorted({row.levels for points in lines.values() for row in points}))
    has_diamonds = attack != UNION and any(row.attack == UNION for row in found)
    _titles(figure, victim, tier, attack, has_diamonds)
    return figure


def _draw_line(axes: Any, defence: str, points: Sequence[PlotRow]) -> None:
    color, is_ours = color_of(defence), defence == "codefend"
    levels = [row.levels for row in points]
    lows, highs = [row.low for row in points], [row.high for row in points]
    axes.fill_between(levels, lows, highs, color=color, alpha=0.16, linewidth=0)
    axes.plot(
        levels,
        [row.value for row in points],
        color=color,
        linewidth=3.0 if is_ours else 1.8,
        linestyle=(0, (4, 2)) if defence == "none" else "solid",
        marker="o",
        markersize=6 if is_ours else 4.5,
        zorder=4 if is_ours else 3,
    )


def _draw_worst(axes: Any, defence: str, points: Sequence[PlotRow]) -> None:
    for row in points:
        axes.plot(
            row.levels,
            row.value,
            marker="D",
            markersize=6,
            markerfacecolor="white",
            markeredgecolor=color_of(defence),
            markeredgewidth=1.8,
            zorder=5,
        )


def _draw_prior(axes: Any, rows: Sequence[PlotRow]) -> None:
    """What is right without looking at the image."""
    if rows:
        axes.axhline(rows[0].value, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)))
        text = f"question alone {rows[0].value:.0%}"
        axes.text(0.1, rows[0].value + 0.012, text, color=FAINT, fontsize=10)


def _label_lines(axes: Any, lines: Mapping[str, Sequence[PlotRow]]) -> None:
    """Each line's name and last value at its end, apart from each other."""
    ends = {defence: points[-1].value for defence, points in lines.items()}
    heights = spread(list(ends.values()), _LABEL_GAP)
    right = max((points[-1].levels for points in lines.values()), default=1)
    for (defence, value), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            f"{name_of(defence)}  {value:.0%}",
            xy=(lines[defence][-1].levels, value),
            xytext=(right * 1.035, height),
            va="center",
            fontsize=11,
            fontweight="bold" if defence == "codefend" else "normal",
            color=color_of(defence),
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights as little as it takes for all to be ``gap`` apart; the order is kept.

    Neighbours that are too near are pooled and set around their mean: Robertson et al. 1988,
    the pool-adjacent-violators algorithm.

    Args:
        heights: where labels belong, in any order.
        gap: least distance.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    # A pool is [sum of what its first height would be, number]; its mean is where it starts.
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([heights[index] - rank * gap, 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, number = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + number]
    starts = [total / number for total, number in pools for _ in range(round(number))]
    moved = [0.0] * len(heights)
    for rank, index in enumerate(order):
        moved[index] = starts[rank] + rank * gap
    return moved


def _frame(axes: Any, levels: Sequence[int]) -> None:
    axes.set_xticks(levels, [f"{level}/255" if level else "0" for level in levels], fontsize=11)
    axes.set_xlim(-0.02 * levels[-1], 1.01 * levels[-1])
    show_percent(axes, "radius ε of the attack")


def _titles(figure: Any, victim: str, tier: str, attack: str, has_diamonds: bool) -> None:
    figure.text(0.03, 0.945, tier_title(tier), fontsize=13.5, fontweight="bold", color=INK)
    diamonds = "; ◇ the worst of all attacks" if has_diamonds else ""
    text = f"Right answers of {victim} under {attack}{diamonds}. Bands: 95 % intervals."
    figure.text(0.03, 0.895, text, fontsize=10.5, color=FAINT)
