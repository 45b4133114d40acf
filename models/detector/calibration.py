"""From a detector's score to a suspicion: the share of clean images that scored less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FLAG_ABOVE",
    "clean_quantiles",
    "is_flagged",
    "scores_of",
    "suspicion_of_tiles",
    "suspicions_of",
]

FLAG_ABOVE = 0.99
"""Suspicion above which an image is flagged: 1 % of the clean images that calibration saw."""

_LEVELS = np.linspace(0.0, 1.0, 201)


def clean_quantiles(scores: Sequence[float] | NDArray[np.floating]) -> tuple[float, ...]:
    """What a calibration is kept as: 201 quantiles of clean images' scores, rising.

    Args:
        scores: of clean images; their largest hundredth decides what is flagged.

    Raises:
        ValueError: there are fewer than 100: a hundredth of them would be nobody.
    """
    if len(scores) < 100:
        raise ValueError(f"a calibration takes at least 100 clean images, not {len(scores)}")
    return tuple(float(q) for q in np.quantile(np.asarray(scores, np.float64), _LEVELS))


def suspicions_of(scores: NDArray[np.floating], quantiles: Sequence[float]) -> NDArray[np.float64]:
    """Scores (N,) to suspicions (N,) in [0, 1], linear between the quantiles.

    Raises:
        ValueError: the quantiles are none of ``clean_quantiles``.
    """
    if len(quantiles) != len(_LEVELS):
        raise ValueError("the detector is not calibrated")
    return np.interp(np.asarray(scores, np.float64), quantiles, _LEVELS)


def scores_of(suspicions: Sequence[float], quantiles: Sequence[float]) -> NDArray[np.float64]:
    """Suspicions (N,) back to the scores (N,) that they came from: the inverse of `suspicions_of`.

    Raises:
        ValueError: so many are 1 that the score which 1 % are above is not known any more: all
            scores beyond the calibration's are 1.
    """
    found = np.asarray(suspicions, np.float64)
    if np.mean(found >= 1.0) >= 1 - FLAG_ABOVE:
        raise ValueError(
            "over 1 % of these images lie beyond all that the calibration saw, so that their "
            "scores are lost; calibrate on the images themselves"
        )
    return np.interp(found, _LEVELS, np.asarray(quantiles, np.float64))


def is_flagged(suspicion: float) -> bool:
    """Whether an image of this suspicion is flagged."""
    return suspicion > FLAG_ABOVE


def suspicion_of_tiles(suspicions: Sequence[float | None]) -> float | None:
    """The suspicion of a picture by those of its tiles; None where there is no detector."""
    known = [suspicion for suspicion in suspicions if suspicion is not None]
    return float(np.mean(known)) if known else None
