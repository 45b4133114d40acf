"""Each budget admits what is within it, refuses what is just outside, and rounds to within."""

import numpy as np
import pytest
import torch

from codefend.lab.attacks.budgets import Ball, Shift, Similarity, Window, ssim
from codefend.lab.evaluate.fidelity import fidelity


@pytest.fixture
def clean():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(20, 236, (2, 10, 12, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)


def test_ball(clean):
    moved = clean.copy()
    moved[0, 3, 4, 1] += 8
    moved[1, 3, 4, 1] += 9
    assert Ball(8 / 255).admits(moved, clean).tolist() == [True, False]
    assert Ball(8.9 / 255).admits(moved, clean).tolist() == [True, False]


def test_window(clean):
    moved = clean.copy()
    moved[0, 5:13, 7:19] = 255 - moved[0, 5:13, 7:19]  # 96 of 1920 pixels: 5 %
    moved[1, 5, 7], moved[1, 13, 18] = 0, 0  # two pixels that span 9 x 12
    assert Window(0.05).admits(moved, clean).tolist() == [True, False]
    assert Window(0.05).admits(clean, clean).all()
    assert Window(1.0).admits(255 - clean, clean).all()


def test_similarity_is_the_reports_ssim(clean):
    rng = np.random.default_rng(1)
    noisy = (clean.astype(int) + rng.integers(-9, 10, clean.shape)).astype(np.uint8)
    pair = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 for pixels in (noisy, clean))
    ours = ssim(*pair)
    np.testing.assert_allclose(ours, fidelity(noisy, clean)[1], atol=1e-6)
    between = float(1 - ours.mean())
    assert sorted(Similarity(between).admits(noisy, clean)) == [False, True]


@pytest.mark.parametrize("distance", [1e-5, 0.001, 0.05])
def test_similarity_is_kept_by_rounding(clean, distance):
    generator = torch.Generator().manual_seed(0)
    floats = torch.from_numpy(clean).permute(0, 3, 1, 2) / 255
    far = (floats + 0.2 * torch.randn(floats.shape, generator=generator)).clamp(0, 1)
    rounded = Similarity(distance).quantise(far, clean)
    assert Similarity(distance).admits(rounded, clean).all()


def test_shift(clean):
    for columns, admitted in ((1, True), (2, True), (4, False)):
        moved = np.roll(clean, columns, axis=2)
        moved[:, :, :columns] = clean[:, :, :1]
        assert Shift(2.0).admits(moved, clean).all() == admitted
    assert not Shift(2.0).admits(255 - clean, clean).any()


@pytest.mark.parametrize(
    "wrong", [lambda: Window(0.0), lambda: Window(1.1), lambda: Similarity(0.0), lambda: Shift(-1)]
)
def test_refuses_meaningless_bounds(wrong):
    with pytest.raises(ValueError, match="must"):
        wrong()
