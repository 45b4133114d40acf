"""Intervals at 95 %: Wilson's for rates, a bootstrap that draws whole clusters for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Estimate", "Floats", "Measure", "bootstrap", "ratio", "wilson"]

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


Measure = tuple[str | None, str, Estimate]
"""Task (None where a figure belongs to none), metric, and the figure."""


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
        totals: (num_clusters, k): sums over each cluster's items, such as a scene's questions.
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


def ratio(
    above: ArrayLike, below: ArrayLike, *, clusters: ArrayLike | None = None, n: int | None = None
) -> Estimate:
    """Sum over sum, its interval by a bootstrap.

    Args:
        above: (N,) numerators.
        below: (N,) denominators; ones for a mean.
        clusters: (N,) of equal values where items are drawn together; each alone where None.
        n: number of items to report; N where None.
    """
    columns = [np.asarray(values, np.float64) for values in (above, below)]
    n = len(columns[0]) if n is None else n
    if clusters is not None:
        _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
        columns = [np.bincount(cluster, values).astype(np.float64) for values in columns]
    return bootstrap(np.stack(columns, axis=1), _quotient, n=n)


def _quotient(totals: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(totals[..., 0] / totals[..., 1])
