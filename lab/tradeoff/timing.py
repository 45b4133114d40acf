"""How long each point takes for one image, all of them measured in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import Defence
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.statistics import Estimate
from codefend.lab.tradeoff.points import Point

__all__ = ["TIME_METRIC", "timing_rows"]

SIDE_PX = 512
TIME_METRIC = f"milliseconds_{SIDE_PX}px"
NUM_WARM_UP = 2


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
            for _ in range(NUM_WARM_UP + num_rounds)
        ]
    )[NUM_WARM_UP:]
    low, middle, high = np.quantile(times, [0.05, 0.5, 0.95], axis=0)
    rows: list[Row] = []
    for index, point in enumerate(points):
        figure = Estimate(float(middle[index]), float(low[index]), float(high[index]), num_rounds)
        rows += rows_under(
            Threat(tier=Tier.CLEAN, attack="none"),
            [(None, TIME_METRIC, figure)],
            defence=point.condition.name,
            victim="none",
            seeds=1,
        )
    return rows


def _milliseconds(defence: Defence, image: torch.Tensor, noise: torch.Generator) -> float:
    started_s = time.perf_counter()
    with torch.no_grad():
        defence.apply(image, noise).cpu()
    return 1000 * (time.perf_counter() - started_s)
