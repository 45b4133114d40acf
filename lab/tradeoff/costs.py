"""What the points of a trade-off cost beside what they buy: time, photos' sharpness, the front."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import Defence, defend
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.statistics import Estimate, ratio
from codefend.lab.fidelity.samples import Sample
from codefend.lab.labels import UNION
from codefend.lab.plots.tradeoff import CostCurve, CostSpot, Panel
from codefend.lab.progress import progress
from codefend.lab.tradeoff.points import SERVED, Point

__all__ = [
    "PHOTO",
    "TIME_METRIC",
    "cost_panels",
    "find_row",
    "front_notes",
    "photo_rows",
    "timing_rows",
]

SIDE_PX = 512
TIME_METRIC = f"milliseconds_{SIDE_PX}px"
PHOTO = "photo"
"""The task of rows on photos that nobody attacked."""
NUM_WARM_UP = 2
AS_FAST = 1.05
"""Times that differ by less are equal: points of one number of steps do the same work."""
_CLEAN = Threat(tier=Tier.CLEAN, attack="none")


def timing_rows(points: Sequence[Point], *, num_rounds: int, device: str) -> list[Row]:
    """The median of each point, between its 5 % and 95 % quantiles.

    The points take turns in every round, so that what else the machine does falls on all alike.

    Args:
        points: what is timed.
        num_rounds: how often each of them, after the warm-up.
        device: torch device of the image.
    """
    noise = torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, SIDE_PX, SIDE_PX), generator=noise).to(device)
    times = np.array(
        [
            [_milliseconds(point.condition.defence, image, noise) for point in points]
            for _ in progress(range(NUM_WARM_UP + num_rounds), desc="timing", unit="round")
        ]
    )[NUM_WARM_UP:]
    low, middle, high = np.quantile(times, [0.05, 0.5, 0.95], axis=0)
    rows: list[Row] = []
    for index, point in enumerate(points):
        figure = Estimate(float(middle[index]), float(low[index]), float(high[index]), num_rounds)
        rows += _rows(point, None, TIME_METRIC, figure, seeds=1)
    return rows


def _milliseconds(defence: Defence, image: torch.Tensor, noise: torch.Generator) -> float:
    started_s = time.perf_counter()
    with torch.no_grad():
        defence.apply(image, noise).cpu()
    return 1000 * (time.perf_counter() - started_s)


def photo_rows(points: Sequence[Point], photos: Sequence[Sample], *, seed: int) -> list[Row]:
    """How near photos stay to themselves: `psnr_db`, and the first point's lead, photo by photo.

    Args:
        points: what they go through.
        photos: that nobody attacked.
        seed: of the noise.
    """
    images = [photo.image for photo in photos]
    ones = np.ones(len(images))
    clusters = [photo.cluster for photo in photos]
    rows: list[Row] = []
    first = np.zeros(len(images))
    for point in progress(points, desc="photos", unit="point"):
        defended = defend(point.condition.defence, images, seed=seed, batch_size=1)
        decibels = np.array(fidelity(defended, images)[0])
        figure = ratio(decibels, ones, clusters=clusters)
        rows += _rows(point, PHOTO, "psnr_db", figure, seeds=1)
        if point is points[0]:
            first = decibels
        else:
            lead = ratio(first - decibels, ones, clusters=clusters)
            metric = f"psnr_db_lead:{point.condition.name}"
            rows += _rows(points[0], PHOTO, metric, lead, seeds=1)
    return rows


def _rows(
    point: Point, task: str | None, metric: str, figure: Estimate, *, seeds: int
) -> list[Row]:
    measures = [(task, metric, figure)]
    return rows_under(_CLEAN, measures, defence=point.condition.name, victim="none", seeds=seeds)


def find_row(
    rows: Sequence[Row], defence: str, tier: str, metric: str, *, task: str | None = None
) -> Row | None:
    """One figure of a point: clean, or under the union of a tier's attacks.

    Args:
        rows: of the report.
        defence: name of the point.
        tier: of the attacker.
        metric: of the figure.
        task: `PHOTO` for photos; of scenes where None.
    """
    attack = "none" if tier == Tier.CLEAN else UNION
    wanted = (defence, tier, attack, metric, task == PHOTO)
    return next(
        (
            row
            for row in rows
            if (row.defence, row.tier, row.attack, row.metric, row.task == PHOTO) == wanted
        ),
        None,
    )


def cost_panels(rows: Sequence[Row], points: Sequence[Point]) -> list[Panel]:
    """T0 against time, and photos' decibels against time: a curve for each family of points."""
    t0 = [find_row(rows, point.condition.name, Tier.OBLIVIOUS, "accuracy") for point in points]
    photos = [
        find_row(rows, point.condition.name, Tier.CLEAN, "psnr_db", task=PHOTO) for point in points
    ]
    titles = ("right answers under T0", "photos, dB (more is nearer)")
    return [
        Panel(title, _curves(rows, points, figures))
        for title, figures in zip(titles, (t0, photos), strict=True)
        if all(figures)
    ]


def _curves(
    rows: Sequence[Row], points: Sequence[Point], figures: Sequence[Row | None]
) -> list[CostCurve]:
    spots: dict[str, list[CostSpot]] = {}
    for point, row in zip(points, figures, strict=True):
        assert row is not None  # noqa: S101 - the caller has looked
        milliseconds = _time(rows, point)
        spot = CostSpot(f"{point.noise_level:g}", milliseconds, row.value, row.low, row.high)
        spots.setdefault(point.family, []).append(spot)
    return [CostCurve(name, own) for name, own in spots.items()]


def front_notes(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """Which points of other purifiers reach the first one's T0, how long they take, and the front.

    Points with something behind them are left out: they are no other purifier.

    Args:
        rows: of the report.
        points: the first of them is what others are compared with.
    """
    alone = [point for point in points if not point.behind]
    first, others = alone[0], [point for point in alone if point.purifier != alone[0].purifier]
    if not others:
        return ""
    reached = []
    for point in others:
        name = point.condition.name
        lead = find_row(rows, SERVED, Tier.OBLIVIOUS, f"accuracy_lead:{name}")
        if lead is not None and lead.low <= 0:
            times = _time(rows, point) / _time(rows, first)
            reached.append(f"`{name}` in {times:.1f} times its time")
    theirs = f"Of the {len(others)} settings of {_names(point.purifier for point in others)}, "
    said = f"{theirs}{len(reached)} reach the first point's T0 within the paired interval"
    lines = [f"{said}: {_names(reached)}." if reached else f"{theirs}none reaches its T0."]
    beaten = {
        point.condition.name: _beats(rows, point, others) for point in alone if point not in others
    }
    has_photos = any(row.task == PHOTO for row in rows)
    what = "T0, photos and time" if has_photos else "T0 and time"
    on, off = [n for n, by in beaten.items() if not by], {n: by for n, by in beaten.items() if by}
    lines.append(
        f"On the front of {what} beside them: {_names(f'`{name}`' for name in on)}."
        if on
        else f"None of the first purifier's settings is on the front of {what}."
    )
    lines += [
        f"`{name}` is behind {_names(f'`{each}`' for each in by)}: no slower, and no worse in both."
        for name, by in off.items()
    ]
    return " ".join(lines)


def _beats(rows: Sequence[Row], point: Point, others: Sequence[Point]) -> list[str]:
    """Points that are no slower than a point, and no worse in T0 and on photos, by value."""
    own = _values(rows, point)
    return [
        other.condition.name
        for other in others
        if _time(rows, other) <= AS_FAST * _time(rows, point)
        and all(a >= b for a, b in zip(_values(rows, other), own, strict=True))
    ]


def _values(rows: Sequence[Row], point: Point) -> list[float]:
    name = point.condition.name
    found = [
        find_row(rows, name, Tier.OBLIVIOUS, "accuracy"),
        find_row(rows, name, Tier.CLEAN, "psnr_db", task=PHOTO),
    ]
    return [row.value for row in found if row is not None]


def _time(rows: Sequence[Row], point: Point) -> float:
    row = find_row(rows, point.condition.name, Tier.CLEAN, TIME_METRIC)
    return float("nan") if row is None else row.value


def _names(words: object) -> str:
    return ", ".join(dict.fromkeys(words))  # type: ignore[call-overload]
