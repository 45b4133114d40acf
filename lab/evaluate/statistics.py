"""Intervals at 95 %: Wilson's for rates, a bootstrap clustered by scene for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "bootstrap", "wilson"]

_Z = 1.959963984540054  # the normal quantile of 97.5 %
_NUM_RESAMPLES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its interval, and how many items it rests on."""

    value: float
    low: float
    high: float
    n: int


def wilson(rate: float, n: int) -> Estimate:
    """Wilson's score interval: Wilson 1927, "Probable Inference…".

    Args:
        rate: share of successes in [0, 1]; a mean over seeds need not be a whole number over n.
        n: number of items; repetitions of one item under other seeds do not count.

    Raises:
        ValueError: where there are no items.
    """
    if n < 1:
        raise ValueError("a rate needs at least one item")
    center = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    return Estimate(rate, min(rate, max(0.0, center - half)), max(rate, min(1.0, center + half)), n)


def bootstrap(
    totals: Floats, statistic: Callable[[Floats], Floats], *, n: int, seed: int = 0
) -> Estimate:
    """Percentile bootstrap that draws whole scenes with replacement: Efron & Tibshirani 1993.

    Args:
        totals: (num_scenes, k): sums over each scene's items, the cluster's contribution.
        statistic: maps sums over scenes (..., k) to values (...).
        n: number of items to report.
        seed: of the draws.

    Returns:
        The statistic of all scenes, between the 2.5 % and 97.5 % quantiles of the resamples.
    """
    rng = np.random.default_rng(seed)
    num_scenes = len(totals)
    counts = rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), _NUM_RESAMPLES)
    resampled = statistic(counts.astype(np.float64) @ totals)
    low, high = np.quantile(resampled[np.isfinite(resampled)], [0.025, 0.975])
    return Estimate(float(statistic(totals.sum(axis=0))), float(low), float(high), n)
