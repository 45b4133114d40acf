import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codefend.models.buckets import choose_bucket
from codefend.models.tiles import Tile, Tiling

TILING = Tiling(whole_px=200, side_px=64, overlap_px=8)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(200, 200), (1, 200), (200, 1), (1, 1), (63, 65)])
def test_a_picture_up_to_the_limit_stays_in_one_piece(size):
    assert TILING.cut(*size) == (Tile(0, 0, *size),)


@pytest.mark.parametrize(
    ("size", "shape", "num"),
    [
        ((201, 201), (64, 64), 16),
        ((201, 64), (64, 64), 4),
        ((3, 1000), (3, 64), 18),  # very thin: as high as the picture
        ((1, 201), (1, 64), 4),
        ((201, 65), (64, 64), 8),  # one pixel more than a tile: two columns that nearly coincide
    ],
)
def test_tiles_of_a_picture_have_one_shape(size, shape, num):
    tiles = TILING.cut(*size)
    assert len(tiles) == num
    assert {(tile.height, tile.width) for tile in tiles} == {shape}


@pytest.mark.parametrize("size", [(201, 201), (353, 1), (3, 1000), (700, 500), (40, 40)])
def test_neighbours_are_the_tiles_that_share_pixels(size):
    tiles = Tiling(100, 192, 16).cut(*size)
    for number, tile in enumerate(tiles):
        sharing = [k for k, other in enumerate(tiles) if k != number and tile.intersect(other)]
        assert list(Tiling(100, 192, 16).neighbours(*size, number)) == sharing


def test_a_side_takes_no_more_tiles_than_it_needs():
    tiling = Tiling(whole_px=1, side_px=64, overlap_px=8)
    sides = {height: len(tiling.cut(height, 1)) for height in (64, 65, 120, 121, 176, 177)}
    assert sides == {64: 1, 65: 2, 120: 2, 121: 3, 176: 3, 177: 4}


@settings(deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from([64, 128, 192]),
    st.integers(1, 32),
)
def test_tiles_cover_a_picture_and_overlap_and_share_a_bucket(height, width, side_px, overlap_px):
    tiles = Tiling(100, side_px, overlap_px).cut(height, width)
    covered = np.zeros((height, width), int)
    for tile in tiles:
        rows, columns = tile.place
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        covered[tile.place] += 1
    assert covered.min() == 1
    assert len({choose_bucket(tile.height, tile.width) for tile in tiles}) == 1
    for axis in ("left", "top"):
        starts = sorted({getattr(tile, axis) for tile in tiles})
        length = tiles[0].width if axis == "left" else tiles[0].height
        assert all(b - a <= length - overlap_px for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("overlap_px", [1, 8, 32])
@pytest.mark.parametrize("size", [(201, 333), (77, 1000), (5, 400)])
def test_equal_pixels_laid_in_any_order_give_the_picture_back(size, overlap_px):
    tiling, picture = Tiling(200, 64, overlap_px), noise(*size)
    tiles = tiling.cut(*size)
    whole, laid = noise(*size, seed=1), []
    for number in np.random.default_rng(2).permutation(len(tiles)):
        tiling.lay(whole, picture[tiles[number].place], tiles[number], laid)
        laid.append(tiles[number])
    assert np.array_equal(whole, picture)


def test_where_tiles_differ_one_fades_into_the_other():
    tiling = Tiling(1, 64, 16)
    left, right = tiling.cut(1, 112)
    levels = {left: 0, right: 255}
    for order in ((left, right), (right, left)):
        whole = np.full((1, 112, 3), 77, np.uint8)
        for number, tile in enumerate(order):
            pixels = np.full((1, 64, 3), levels[tile], np.uint8)
            tiling.lay(whole, pixels, tile, order[:number])
        row = whole[0, :, 0].astype(int)
        assert set(row[:48]) == {0}
        assert set(row[64:]) == {255}
        assert np.all(np.abs(np.diff(row[47:65])) <= 1 + 255 / 16), "no step is steeper than a ramp"


def test_the_order_changes_no_more_than_the_rounding():
    tiling = Tiling(1, 64, 16)
    tiles = tiling.cut(100, 100)
    pixels = [noise(64, 64, seed) for seed in range(len(tiles))]
    wholes = []
    for order in (range(len(tiles)), reversed(range(len(tiles)))):
        whole, laid = np.zeros((100, 100, 3), np.uint8), []
        for number in order:
            tiling.lay(whole, pixels[number], tiles[number], laid)
            laid.append(tiles[number])
        wholes.append(whole.astype(int))
    assert np.abs(wholes[0] - wholes[1]).max() <= 2


def test_one_tile_is_what_the_function_gives():
    picture = noise(100, 150)
    assert np.array_equal(TILING.apply(lambda pixels: 255 - pixels, picture), 255 - picture)
    assert np.array_equal(TILING.apply(lambda p: np.rot90(p, 2), picture), np.rot90(picture, 2))


@pytest.mark.parametrize(
    "given", [(0, 64, 8), (100, 0, 8), (100, 60, 8), (100, 64, 0), (100, 64, 33)]
)
def test_a_tiling_that_cannot_be_is_refused(given):
    with pytest.raises(ValueError, match="tile"):
        Tiling(*given)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        TILING.cut(0, 5)
