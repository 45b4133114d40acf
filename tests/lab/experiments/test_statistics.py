"""Wilson's interval against published values; the bootstrap draws whole scenes."""

import numpy as np
import pytest

from codefend.lab.experiments.statistics import bootstrap, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3 (score interval without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(successes, n, low, high):
    estimate = wilson(successes / n, n)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)
    assert estimate.value == successes / n


def test_wilson_needs_items():
    with pytest.raises(ValueError, match="at least one"):
        wilson(0.5, 0)


def quotient(totals):
    return totals[..., 0] / totals[..., 1]


def test_bootstrap_of_a_mean_matches_theory():
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 1.0, 400)
    totals = np.stack([values, np.ones(400)], axis=1)
    estimate = bootstrap(totals, quotient, n=400)
    half = 1.96 * values.std() / np.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_is_clustered_by_scene():
    """Ten equal items a scene carry no more information than one."""
    right = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    one = bootstrap(np.stack([right, np.ones(100)], axis=1), quotient, n=100)
    ten = bootstrap(np.stack([10 * right, np.full(100, 10.0)], axis=1), quotient, n=1000)
    assert (ten.low, ten.high) == (one.low, one.high)
    unclustered = np.repeat(np.stack([right, np.ones(100)], axis=1), 10, axis=0)
    narrow = bootstrap(unclustered, quotient, n=1000)
    assert narrow.high - narrow.low < 0.5 * (one.high - one.low)
