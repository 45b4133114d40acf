"""What purifiers buy: accuracy against the likeness of clean images, and both against time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from codefend.lab.plots.style import (
    FAINT,
    INK,
    color_of,
    entitle,
    name_of,
    new_figure,
    show_percent,
)

__all__ = [
    "CostCurve",
    "CostSpot",
    "Curve",
    "Panel",
    "Spot",
    "draw_pareto",
    "draw_tradeoff",
]

_COLORS = {"t0": "#0060a8", "t2": "#d55e00"}
_NAMES = {"t0": "oblivious", "t2": "white box"}
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))

_MARKERS = "os^Dv*P"
_OURS = ("codefend", "diffpure", "jpeg", "median", "blur")


@dataclass(frozen=True, slots=True)
class Spot:
    """One setting: its label, decibels of clean images, accuracy and its interval."""

    label: str
    decibels: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The settings of one purifier with so many steps, under one tier."""

    tier: str
    purifier: str
    num_steps: int
    spots: Sequence[Spot]


@dataclass(frozen=True, slots=True)
class CostSpot:
    """One setting: its label, milliseconds, the figure and its interval."""

    label: str
    milliseconds: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CostCurve:
    """The settings of one family of defences."""

    name: str
    spots: Sequence[CostSpot]


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure against time, of every family."""

    title: str
    curves: Sequence[CostCurve]


def draw_tradeoff(curves: Sequence[Curve]) -> Any:
    """A matplotlib figure; every spot bears its noise level, and its interval as a bar.

    Where no purifier has a second setting, spots bear their purifiers' names instead.
    """
    figure = new_figure(8.0, 5.0)
    axes = figure.add_axes((0.09, 0.12, 0.66, 0.76))
    # A dash for each purifier and number of steps; no line between different purifiers.
    kinds = dict.fromkeys((curve.purifier, curve.num_steps) for curve in curves)
    dashes: dict[tuple[str, int], Any] = dict(zip(kinds, cycle(_DASHES), strict=False))
    drawn = [curve for curve in curves if curve.spots]
    what = "noise level and steps"
    if all(len(curve.spots) == 1 for curve in drawn):
        what = "purifier"
        named: dict[str, list[Spot]] = {}
        for curve in drawn:
            spot = replace(curve.spots[0], label=curve.purifier)
            named.setdefault(curve.tier, []).append(spot)
        drawn = [Curve(tier, "", 0, spots) for tier, spots in named.items()]
    for curve in drawn:
        _draw(axes, curve, dashes.get((curve.purifier, curve.num_steps), "none"))
    show_percent(axes, "clean images after purification, dB (more is nearer)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10)
    entitle(figure, f"Right answers under attack, by {what}", tops=(0.93,))
    return figure


def _draw(axes: Any, curve: Curve, dash: Any) -> None:
    color = _COLORS.get(curve.tier, FAINT)
    spots = sorted(curve.spots, key=lambda spot: spot.decibels)
    name = _NAMES.get(curve.tier, curve.tier)
    if curve.purifier:
        name += f":\n{curve.purifier}, {curve.num_steps} step{'s' if curve.num_steps > 1 else ''}"
    values = [spot.value for spot in spots]
    axes.errorbar(
        [spot.decibels for spot in spots],
        values,
        yerr=[
            [spot.value - spot.low for spot in spots],
            [spot.high - spot.value for spot in spots],
        ],
        color=color,
        linestyle=dash,
        linewidth=1.8,
        elinewidth=0.8,
        marker="o",
        markersize=5,
        label=name,
    )
    for spot in spots:
        axes.annotate(
            spot.label,
            (spot.decibels, spot.value),
            xytext=(4, 5),
            textcoords="offset points",
            fontsize=9,
            color=color,
        )


def draw_pareto(panels: Sequence[Panel], note: str = "") -> Any:
    """A matplotlib figure: a panel beside the other, time on a logarithmic axis.

    Every spot bears its label, and its interval as a bar; a grey line joins those that no other
    beats, which is no slower and higher.
    """
    figure = new_figure(5.2 * len(panels), 4.6)
    axes_of = figure.subplots(1, len(panels), squeeze=False)[0]
    names = dict.fromkeys(curve.name for panel in panels for curve in panel.curves)
    colors = dict(zip(names, cycle([color_of(name) for name in _OURS]), strict=False))
    markers = dict(zip(names, cycle(_MARKERS), strict=False))
    for axes, panel in zip(axes_of, panels, strict=True):
        for curve in panel.curves:
            _draw_costs(axes, curve, colors[curve.name], markers[curve.name])
        front = list(_front([spot for curve in panel.curves for spot in curve.spots]))
        axes.plot(
            [spot.milliseconds for spot in front],
            [spot.value for spot in front],
            color=FAINT,
            linewidth=1.0,
            linestyle=(0, (4, 3)),
            zorder=0,
        )
        axes.set_xscale("log")
        axes.set_xlabel("512×512, ms", fontsize=11, color=INK)
        axes.set_title(panel.title, fontsize=11, color=INK, loc="left")
        axes.grid(color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    axes_of[0].legend(frameon=False, fontsize=9, loc="best")
    entitle(figure, "What purification buys, and what it takes", note, tops=(0.95, 0.91))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.12, top=0.83, wspace=0.16)
    return figure


def _draw_costs(axes: Any, curve: CostCurve, color: str, marker: str) -> None:
    values = [spot.value for spot in curve.spots]
    axes.errorbar(
        [spot.milliseconds for spot in curve.spots],
        values,
        yerr=[
            [spot.value - spot.low for spot in curve.spots],
            [spot.high - spot.value for spot in curve.spots],
        ],
        color=color,
        linestyle="none",
        elinewidth=0.8,
        marker=marker,
        markersize=5,
        label=name_of(curve.name),
    )
    for spot in curve.spots:
        axes.annotate(
            spot.label,
            (spot.milliseconds, spot.value),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=8,
            color=color,
        )


def _front(spots: Sequence[CostSpot]) -> Iterator[CostSpot]:
    """Those that are higher than all faster ones, from left to right."""
    highest = float("-inf")
    for spot in sorted(spots, key=lambda spot: (spot.milliseconds, -spot.value)):
        if spot.value > highest:
            highest = spot.value
            yield spot
