import numpy as np
import pytest

from codefend.models.detector.calibration import clean_quantiles, is_flagged, suspicions_of


def scores(num=1000, seed=0):
    return np.random.default_rng(seed).normal(size=num)


def test_suspicion_is_the_share_of_clean_images_that_score_less():
    quantiles = clean_quantiles(np.arange(101.0))
    assert suspicions_of(np.array([-5.0, 0.0, 25.0, 99.0, 100.0, 1e9]), quantiles) == pytest.approx(
        [0, 0, 0.25, 0.99, 1, 1]
    )


def test_one_clean_image_in_a_hundred_is_flagged():
    quantiles = clean_quantiles(scores(20_000))
    suspicions = suspicions_of(scores(20_000, seed=1), quantiles)
    assert np.mean([is_flagged(s) for s in suspicions]) == pytest.approx(0.01, abs=0.003)


def test_equal_scores_of_all_clean_images_flag_none_of_them():
    quantiles = clean_quantiles(np.zeros(200))
    assert not is_flagged(float(suspicions_of(np.array([-1e-3]), quantiles)[0]))
    assert is_flagged(float(suspicions_of(np.array([1e-3]), quantiles)[0]))


def test_a_calibration_needs_a_hundred_images_and_a_detector_needs_a_calibration():
    with pytest.raises(ValueError, match="at least 100"):
        clean_quantiles(scores(99))
    with pytest.raises(ValueError, match="not calibrated"):
        suspicions_of(scores(3), ())
