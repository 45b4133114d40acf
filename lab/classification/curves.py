"""The trade-off as curves: what each defence keeps of clean windows against what it restores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codefend.lab.attacks.interface import Tier
from codefend.lab.experiments.report import Row
from codefend.lab.labels import UNION
from codefend.lab.plots.style import INK, color_of, new_figure, show_percent

__all__ = ["draw_curves"]

_MARKERS = "osD^vPX*<>"


def draw_curves(rows: Sequence[Row], victims: Sequence[str]) -> Any:
    """A matplotlib figure, one panel a victim, at the largest ε: up and to the right is better."""
    figure = new_figure(4.2 * len(victims), 4.6)
    panels = figure.subplots(1, len(victims), squeeze=False)[0]
    for axes, victim in zip(panels, victims, strict=True):
        _draw(axes, [row for row in rows if row.victim == victim], victim)
    panels[0].legend(loc="upper left", frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _draw(axes: Any, rows: Sequence[Row], victim: str) -> None:
    clean = {row.defence: row.value for row in rows if row.tier == Tier.CLEAN}
    union = [row for row in rows if (row.tier, row.attack) == (Tier.OBLIVIOUS, UNION)]
    largest = max((row.epsilon for row in union), default=0.0)
    restored = {row.defence: row.value for row in union if row.epsilon == largest}
    kinds = dict.fromkeys(name.split(" ")[0] for name in restored)
    for number, kind in enumerate(kinds):
        spots = sorted((clean[n], restored[n]) for n in restored if n.split(" ")[0] == kind)
        axes.plot(
            [kept for kept, _ in spots],
            [value for _, value in spots],
            color=color_of(kind),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.4,
            label=kind,
        )
    show_percent(axes, "clean predictions kept")
    axes.set_xlim(0.5, 1.02)
    axes.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], ["50", "60", "70", "80", "90", "100 %"])
    title = f"{victim}: restored at {round(largest * 255)}/255"
    axes.set_title(title, fontsize=11, color=INK, loc="left")
