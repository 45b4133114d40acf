import numpy as np
import pytest

from codefend.lab.detection.benign import (
    ALTERATIONS,
    alter_benignly,
    gaussian,
    recompress,
    resize,
    uniform,
)


@pytest.fixture
def pixels():
    coarse = np.random.default_rng(0).integers(40, 216, (6, 8, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


@pytest.mark.parametrize("name", ALTERATIONS)
def test_every_alteration_changes_the_image_a_little(pixels, name):
    altered = ALTERATIONS[name](pixels, np.random.default_rng(1))
    assert altered.shape == pixels.shape
    assert altered.dtype == np.uint8
    assert 0 < np.abs(altered.astype(int) - pixels).mean() < 40


def test_noise_has_the_size_that_was_asked_for(pixels):
    rng = np.random.default_rng(2)
    assert (gaussian(pixels, 8.0, rng).astype(int) - pixels).std() == pytest.approx(8, abs=0.5)
    difference = uniform(pixels, 8.0, rng).astype(int) - pixels
    assert np.abs(difference).max() == 8
    assert difference.std() == pytest.approx(8 / 3**0.5, abs=0.4)


def test_resampling_and_compression_take_detail(pixels):
    checks = np.indices((48, 64)).sum(axis=0)[..., None] % 2 * 200
    board = np.broadcast_to(checks, (48, 64, 3)).astype(np.uint8)
    assert resize(board, 0.4).std() < 0.3 * board.std()
    assert resize(pixels, 0.4).shape == pixels.shape
    losses = [np.abs(recompress(pixels, q).astype(int) - pixels).mean() for q in (30, 90)]
    assert losses[0] > losses[1]


def test_a_seed_decides_all(pixels):
    first, again = (alter_benignly(pixels, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    others = [alter_benignly(pixels, np.random.default_rng(seed)) for seed in range(4, 9)]
    assert not all(np.array_equal(first, other) for other in others)
