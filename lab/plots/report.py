"""Plots of a report: accuracy against the attack's radius, and by type of question.

One picture of each for every tier and victim, drawn from ``report.json`` alone: nothing here
evaluates anything. ``codefend-lab plot`` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.optimize import isotonic_regression

from codefend.lab.errors import LabError
from codefend.lab.experiments.report import Row, read_report
from codefend.lab.labels import UNION
from codefend.lab.plots.style import (
    FAINT,
    INK,
    arranged,
    color_of,
    entitle,
    name_of,
    new_figure,
    save_small,
    show_percent,
)

__all__ = [
    "PlotRow",
    "draw_epsilon",
    "draw_question_types",
    "main_attack",
    "plot",
    "plot_report",
    "read_rows",
    "spread",
    "worst_rows",
]

MAIN_LEVELS = 8
# Parts of ours: they have no line of their own beside the whole.
_PARTS = {"purifier", "prompt"}
_NO_ATTACK = {"none", "uniform_noise"}
_TIERS = {
    "t0": "T0, the attacker does not know of the purifier",
    "t1": "T1, attacks through a surrogate purifier",
    "t2": "T2, white-box: attacks through the deployed purifier",
    "t3": "T3, the same image sent ten times",
    "t4": "T4, sees the answers alone",
}
_LABEL_GAP = 0.052
_COLUMNS = 3
_BY_KIND = "accuracy:"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotRow(Row):
    """A report's row, as plots read it."""

    @property
    def levels(self) -> int:
        """Epsilon in levels of 255."""
        return round(self.epsilon * 255)


def plot(
    report: Annotated[Path, typer.Argument(help="A report.json, packed by xz or not.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the PNG files.")],
) -> None:
    """Draw accuracy against epsilon and by question type, for every tier of a report."""
    for path in plot_report(report, out):
        typer.echo(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


def plot_report(report: Path, out: Path) -> list[Path]:
    """Draws what a report holds.

    Args:
        report: a ``report.json``.
        out: folder of the PNG files; the first victim's bear the tier alone in their names.

    Returns:
        The files written.

    Raises:
        LabError: The file is no report, or nothing in it can be drawn.
    """
    rows = read_rows(report)
    drawings = {"accuracy-by-epsilon": draw_epsilon, "accuracy-by-question": draw_question_types}
    written = []
    for tier in sorted({row.tier for row in rows} - {"clean"}):
        for number, victim in enumerate(dict.fromkeys(r.victim for r in rows if r.task == "vqa")):
            ending = "" if number == 0 else "-" + re.sub(r"[^a-z0-9]+", "-", victim.lower())
            for name, draw in drawings.items():
                figure = draw(rows, victim=victim, tier=tier)
                if figure is not None:
                    written.append(out / f"{name}-{tier}{ending}.png")
                    save_small(figure, written[-1])
    if not written:
        raise LabError(f"{report} holds no accuracy under attack to draw")
    return written


def read_rows(report: Path) -> list[PlotRow]:
    """The rows of a ``report.json``, packed or not; keys that plots do not need are passed over.

    Raises:
        LabError: There is no such file, or it is no report.
    """
    return read_report(report, PlotRow)[1]


def _select(rows: Iterable[PlotRow], **wanted: object) -> list[PlotRow]:
    """The rows whose attributes equal ``wanted``, in order."""
    return [
        row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())
    ]


def _accuracies(rows: Sequence[PlotRow], victim: str, tier: str) -> list[PlotRow]:
    """VQA accuracies of one victim under the untargeted attacks of a tier, unattacked included."""
    found = _select(rows, victim=victim, task="vqa", metric="accuracy", targeted=False)
    return [row for row in found if row.tier == tier or row.attack == "none"]


def main_attack(rows: Sequence[PlotRow]) -> str | None:
    """The attack tried at most radii, the worst of all if it is one of them; None without any.

    What a tier asks of unattacked images is no attack, whatever it is called.
    """
    radii: dict[str, set[int]] = {}
    for row in rows:
        if row.attack not in _NO_ATTACK and row.levels:
            radii.setdefault(row.attack, set()).add(row.levels)
    # The first of equals: reports begin with the attack that settings were chosen under.
    return max(radii, key=lambda name: (len(radii[name]), name == UNION), default=None)


def worst_rows(rows: Sequence[PlotRow]) -> list[PlotRow]:
    """Of several rows at one radius, such as of several step counts, the lowest; by radius."""
    lowest: dict[int, PlotRow] = {}
    for row in sorted(rows, key=lambda row: (row.levels, row.value)):
        lowest.setdefault(row.levels, row)
    return list(lowest.values())


def draw_epsilon(rows: Sequence[PlotRow], *, victim: str, tier: str) -> Any | None:
    """Accuracy against epsilon: one line a defence, with its interval as a band.

    Lines join the points of the attack that was tried at most radii; a diamond is the worst of all
    attacks, where the report has it beside that attack.

    Args:
        rows: a report's.
        victim: whose answers.
        tier: whose attacks.

    Returns:
        A matplotlib figure; None where no defence was attacked at more than one radius.
    """
    found = _accuracies(rows, victim, tier)
    attack = main_attack(found)
    joined = [row for row in found if row.attack in ("none", attack)]
    lines = {name: worst_rows(_select(joined, defence=name)) for name in _shown(found)}
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:  # of one radius alone there is no curve
        return None
    worst = [] if attack == UNION else _select(found, attack=UNION)
    figure = new_figure(8.0, 5.0)
    axes = figure.add_axes((0.08, 0.12, 0.70, 0.74))
    for defence, points in lines.items():
        _draw_line(axes, defence, points, worst_rows(_select(worst, defence=defence)))
    for row in _select(rows, victim=victim, metric="question_only_accuracy")[:1]:
        axes.axhline(row.value, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)))
        text = f"question alone {row.value:.0%}"
        axes.text(0.1, row.value + 0.012, text, color=FAINT, fontsize=10)
    _label_lines(axes, lines)
    levels = sorted({row.levels for points in lines.values() for row in points})
    axes.set_xticks(levels, [f"{level}/255" if level else "0" for level in levels], fontsize=11)
    axes.set_xlim(-0.02 * levels[-1], 1.01 * levels[-1])
    show_percent(axes, "radius ε of the attack")
    diamonds = "; ◇ the worst of all attacks" if worst else ""
    note = f"Right answers of {victim} under {attack}{diamonds}. Bands: 95 % intervals."
    entitle(figure, _TIERS.get(tier, tier), note, tops=(0.945, 0.895))
    return figure


def _shown(rows: Sequence[PlotRow]) -> list[str]:
    return [name for name in arranged(row.defence for row in rows) if name not in _PARTS]


def _draw_line(
    axes: Any, defence: str, points: Sequence[PlotRow], worst: Sequence[PlotRow]
) -> None:
    """A band, a line through its middle, and diamonds below it."""
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
    axes.plot(
        [row.levels for row in worst],
        [row.value for row in worst],
        linestyle="none",
        marker="D",
        markersize=6,
        markerfacecolor="white",
        markeredgecolor=color,
        markeredgewidth=1.8,
        zorder=5,
    )


def _label_lines(axes: Any, lines: Mapping[str, Sequence[PlotRow]]) -> None:
    """Each line's name and last value at its end, apart from each other."""
    ends = {defence: points[-1] for defence, points in lines.items()}
    heights = spread([end.value for end in ends.values()], _LABEL_GAP)
    right = max(end.levels for end in ends.values())
    for (defence, end), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            f"{name_of(defence)}  {end.value:.0%}",
            xy=(end.levels, end.value),
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
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(order))
    moved = np.empty(len(order))
    moved[order] = isotonic_regression(np.take(heights, order) - steps).x + steps
    return [float(height) for height in moved]


def draw_question_types(rows: Sequence[PlotRow], *, victim: str, tier: str) -> Any | None:
    """Accuracy at the main radius by type of question: a panel a type, a line a defence.

    Args:
        rows: a report's.
        victim: whose answers.
        tier: whose attacks.

    Returns:
        A matplotlib figure, or None where the tier has no such figures of this victim.
    """
    found = _accuracies(rows, victim, tier)
    main = main_attack(found)
    counted = _select(found, attack=UNION) or _select(found, attack=main)
    if not counted:
        return None
    chosen = min(counted, key=lambda row: (row.levels != MAIN_LEVELS, -row.n))
    own = _select(rows, victim=victim, task="vqa", targeted=False)
    attacked = _select(own, tier=tier, attack=chosen.attack, levels=chosen.levels)
    metrics = list(dict.fromkeys(r.metric for r in attacked if r.metric.startswith(_BY_KIND)))
    if not metrics:
        return None
    defences, num_rows = _shown(found), -(-len(metrics) // _COLUMNS)
    height_in = 1.0 + num_rows * (0.75 + 0.27 * len(defences))
    figure = new_figure(8.0, height_in)
    panels = figure.subplots(num_rows, _COLUMNS, sharey=True, sharex=True, squeeze=False)
    for metric, axes in zip(metrics, panels.flat, strict=False):
        kind = metric.removeprefix(_BY_KIND)
        clean = _select(own, metric=metric, attack="none")
        _draw_panel(axes, defences, clean, _select(attacked, metric=metric))
        for row in _select(own, metric=f"question_only_accuracy:{kind}")[:1]:
            axes.axvline(row.value, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
        axes.set_title(kind, fontsize=11.5, fontweight="bold", color=INK, loc="left")
    for axes in list(panels.flat)[len(metrics) :]:
        axes.set_axis_off()
    _frame_panels(panels, defences)
    bottom, top = 0.42 / height_in, 1 - 0.98 / height_in
    figure.subplots_adjust(left=0.125, right=0.985, bottom=bottom, top=top, wspace=0.08, hspace=0.3)
    named = "the worst of all attacks" if chosen.attack == UNION else chosen.attack
    note = f"Right answers in %: ○ clean, ● {named} at {chosen.levels}/255. "
    note += "Bars: 95 %. Dotted: question alone."
    tops = (1 - 0.3 / height_in, 1 - 0.56 / height_in)
    entitle(figure, _TIERS.get(tier, tier), note, left=0.02, tops=tops)
    return figure


def _draw_panel(
    axes: Any, defences: Sequence[str], clean: Sequence[PlotRow], attacked: Sequence[PlotRow]
) -> None:
    for height, defence in enumerate(defences):
        color = color_of(defence)
        for row in worst_rows(_select(clean, defence=defence)):
            axes.plot(row.value, height, "o", mfc="white", mec=color, ms=6, mew=1.4, zorder=3)
        for row in worst_rows(_select(attacked, defence=defence)):
            axes.plot([row.low, row.high], [height, height], color=color, lw=3.5, alpha=0.4)
            axes.plot(row.value, height, "o", color=color, ms=6.5, zorder=4)


def _frame_panels(panels: Any, defences: Sequence[str]) -> None:
    for axes in panels.flat:
        axes.set(xlim=(-0.03, 1.03), ylim=(len(defences) - 0.5, -0.5))
        axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100"])
        axes.set_yticks(range(len(defences)), [name_of(name) for name in defences])
        axes.tick_params(length=0, colors=INK, labelsize=10)
        axes.grid(axis="both", color="#e9ecef", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    for axes in panels[:, 0]:
        for label, defence in zip(axes.get_yticklabels(), defences, strict=True):
            label.set_color(color_of(defence))
            label.set_fontweight("bold" if defence == "codefend" else "normal")
