"""The table of a trade-off curve, a line for each point, and what is drawn of it."""

from __future__ import annotations

from collections.abc import Sequence

from codefend.lab.attacks.interface import Tier
from codefend.lab.experiments.report import Row, cell
from codefend.lab.experiments.table import Table
from codefend.lab.labels import UNION
from codefend.lab.plots.tradeoff import Curve, Spot
from codefend.lab.tradeoff.points import SERVED, TIME_METRIC, Point

__all__ = ["curves_of", "tradeoff_table"]

_TIERS = (Tier.CLEAN, Tier.OBLIVIOUS, Tier.WHITE_BOX)

_HEADS = (
    "purifier",
    "noise level",
    "steps",
    "clean, dB",
    "clean VQA",
    "T0 VQA",
    "T2 VQA",
    "T2, of clean",
    "T2, first minus this",
    "512×512, ms",
)


def tradeoff_table(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """Markdown; the first point, in bold, is what the others are compared with."""
    lines = []
    for point in points:
        cells = [*_setting(point), *_figures(rows, point.condition.name)]
        if point is points[0]:
            cells[:3] = [f"**{text}**" for text in cells[:3]]
        lines.append(cells)
    return Table(_HEADS, lines).markdown()


def _setting(point: Point) -> list[str]:
    return [point.purifier, f"{point.noise_level:g}", str(point.num_steps)]


def _figures(rows: Sequence[Row], name: str) -> list[str]:
    time = _find(rows, name, Tier.CLEAN, TIME_METRIC)
    lead = _find(rows, SERVED, Tier.WHITE_BOX, f"accuracy_lead:{name}")
    return [
        cell(_find(rows, name, Tier.CLEAN, "psnr_db")),
        *(cell(_find(rows, name, tier, "accuracy")) for tier in _TIERS),
        cell(_find(rows, name, Tier.WHITE_BOX, "accuracy_of_clean")),
        cell(lead),
        f"{time.value:.0f} [{time.low:.0f}, {time.high:.0f}]" if time else "",
    ]


def curves_of(rows: Sequence[Row], points: Sequence[Point]) -> list[Curve]:
    """Accuracy against the fidelity of clean images, a curve for each tier, purifier and steps."""
    curves: list[Curve] = []
    for tier in _TIERS[1:]:
        for purifier, num_steps in dict.fromkeys((p.purifier, p.num_steps) for p in points):
            found = []
            for point in points:
                name = point.condition.name
                decibels = _find(rows, name, Tier.CLEAN, "psnr_db")
                accuracy = _find(rows, name, tier, "accuracy")
                if (point.purifier, point.num_steps) == (purifier, num_steps) and (
                    decibels and accuracy
                ):
                    spread = (accuracy.value, accuracy.low, accuracy.high)
                    found.append(Spot(f"{point.noise_level:g}", decibels.value, *spread))
            curves.append(Curve(tier, purifier, num_steps, found))
    return curves


def _find(rows: Sequence[Row], defence: str, tier: Tier, metric: str) -> Row | None:
    attack = "none" if tier is Tier.CLEAN else UNION
    wanted = (defence, tier, attack, metric)
    return next(
        (row for row in rows if (row.defence, row.tier, row.attack, row.metric) == wanted), None
    )
