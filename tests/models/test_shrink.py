from fractions import Fraction

import numpy as np
import pytest

from codefend.models.shrink import shrink, shrunken_size


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def overlaps(num_pixels, num_parts):
    """What each part of an axis has of each pixel, exactly."""
    length = Fraction(num_pixels, num_parts)
    return [
        [
            max(Fraction(0), min((part + 1) * length, pixel + 1) - max(part * length, pixel))
            for pixel in range(num_pixels)
        ]
        for part in range(num_parts)
    ]


@pytest.mark.parametrize(("size", "side_px"), [((7, 11), 4), ((6, 4), 2), ((5, 3), 4), ((9, 2), 1)])
def test_each_pixel_is_the_mean_of_what_it_covers(size, side_px):
    pixels = noise(*size)
    height, width = shrunken_size(*size, side_px)
    rows, columns = overlaps(size[0], height), overlaps(size[1], width)
    area = Fraction(size[0] * size[1], height * width)
    shrunken = shrink(pixels, side_px)
    assert shrunken.shape == (height, width, 3)
    for row, rows_of in enumerate(rows):
        for column, columns_of in enumerate(columns):
            covered = sum(
                r * c * int(pixels[y, x, 0])
                for y, r in enumerate(rows_of)
                for x, c in enumerate(columns_of)
            )
            exact = float(covered / area)
            assert abs(shrunken[row, column, 0] - exact) <= 0.5 + 1e-3


def test_no_pixel_weighs_more_than_another():
    """What an attack on scaling needs: pixels that the scaled picture depends on more."""
    reach = []
    for seed in range(20):
        black, rng = np.zeros((60, 60, 3), np.uint8), np.random.default_rng(seed)
        black[rng.integers(60), rng.integers(60)] = 255
        reach.append(int(shrink(black, 7).astype(int).sum()))
    spread = 255 * 3 * (7 / 60) ** 2
    assert all(abs(each - spread) <= 3 * 4 * 0.5 for each in reach)


@pytest.mark.parametrize("side_px", [0, 64, 100])
def test_what_is_small_enough_stays_as_it_is(side_px):
    pixels = noise(64, 30)
    assert shrink(pixels, side_px) is pixels


@pytest.mark.parametrize(
    ("size", "side_px", "expected"),
    [
        ((4000, 6000), 2048, (1365, 2048)),
        ((65, 64), 64, (64, 63)),
        ((1, 10_000), 64, (1, 64)),
        ((10_000, 2), 100, (100, 1)),
    ],
)
def test_the_ratio_is_kept_and_no_side_vanishes(size, side_px, expected):
    assert shrunken_size(*size, side_px) == expected
    if min(size) < 100:
        assert shrink(noise(*size), side_px).shape == (*expected, 3)


def test_a_plain_picture_stays_plain_across_strips():
    plain = np.full((1000, 300, 3), 201, np.uint8)
    assert np.all(shrink(plain, 333) == 201)
