"""Every setting keeps shape, range and size; each does what its paper says; the best is chosen."""

import numpy as np
import pytest
import torch

from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import NO_DEFENCE, defend
from codefend.lab.baselines.filters import blur, median
from codefend.lab.baselines.grid import baseline_grid, choose_settings, diffpure_grid, purifier_grid
from codefend.lab.baselines.purifiers import purifying
from codefend.models.purifier.pipeline import PurificationPipeline

TINY = PurificationPipeline.tiny()
ALL = [
    NO_DEFENCE,
    *baseline_grid(),
    *diffpure_grid(TINY, "0" * 64),
    *purifier_grid(TINY, "0" * 64),
]


@pytest.fixture
def images():
    return torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("defence", ALL, ids=lambda d: f"{d.name} {d.setting[:28]}")
def test_keeps_shape_and_range(defence, images):
    defended = defence.apply(images, torch.Generator().manual_seed(0))
    assert defended.shape == images.shape
    assert defended.dtype == images.dtype
    assert defended.min() >= -1e-6
    assert defended.max() <= 1 + 1e-6


def test_settings_are_all_different():
    assert len({(defence.name, defence.setting) for defence in ALL}) == len(ALL)


def test_bit_depth_leaves_so_many_levels(images):
    assert len(bit_depth(2).apply(images, torch.Generator()).unique()) == 4


def test_low_quality_jpeg_changes_more(images):
    low, high = (jpeg(q).apply(images, torch.Generator()) for q in (10, 90))
    assert (low - images).abs().mean() > (high - images).abs().mean()


def test_blur_keeps_constants_and_damps_noise(images):
    flat = torch.full((1, 3, 20, 20), 0.3)
    torch.testing.assert_close(blur(1.0).apply(flat, torch.Generator()), flat)
    assert blur(2.0).apply(images, torch.Generator()).std() < 0.5 * images.std()


def test_median_removes_single_outliers():
    image = torch.full((1, 3, 12, 12), 0.5)
    image[:, :, 4, 7] = 1.0
    assert (median(3).apply(image, torch.Generator()) == 0.5).all()


@pytest.mark.parametrize("wrong", [lambda: jpeg(0), lambda: bit_depth(9), lambda: blur(0.0)])
def test_refuses_meaningless_settings(wrong):
    with pytest.raises(ValueError, match="must"):
        wrong()


def test_median_needs_an_odd_window():
    with pytest.raises(ValueError, match="odd"):
        median(4)


def test_defend_keeps_order_and_sizes_and_draws_fresh_noise_by_seed():
    rng = np.random.default_rng(0)
    sizes = [(24, 32), (24, 32), (40, 16), (24, 32)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    defence = purifying("purifier", TINY, "0" * 64, noise_level=0.1)
    first, again, other = (defend(defence, images, seed=seed) for seed in (0, 0, 1))
    assert [image.shape for image in first] == [image.shape for image in images]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], first[1])
    for before, after in zip(images, defend(NO_DEFENCE, images, seed=0), strict=True):
        np.testing.assert_array_equal(before, after)


def test_choice_is_most_accurate_under_attack_that_keeps_clean_accuracy():
    settings = [jpeg(10), jpeg(50), jpeg(90), blur(1.0)]
    scores = {
        "quality=10": (0.6, 0.5),
        "quality=50": (0.4, 0.8),
        "quality=90": (0.4, 0.9),
        "sigma_px=1": (0.1, 0.2),
    }
    best, trials = choose_settings(settings, lambda defence: scores[defence.setting])
    assert best["jpeg"] is settings[0]
    assert len(trials) == 4
    careful, _ = choose_settings(
        settings, lambda defence: scores[defence.setting], least_clean=0.75
    )
    assert careful["jpeg"] is settings[2]
    assert careful["blur"] is settings[3]
