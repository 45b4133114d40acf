"""Accuracy under attack against what purification costs clean images: a line for each tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from codefend.lab.plots.style import FAINT, entitle, new_figure, show_percent

__all__ = ["Curve", "Spot", "draw_tradeoff"]

_COLORS = {"t0": "#0060a8", "t2": "#d55e00"}
_NAMES = {"t0": "oblivious", "t2": "white box"}
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))


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
