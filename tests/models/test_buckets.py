import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.models.buckets import Bucket, choose_bucket, crop_from_bucket, pad_to_bucket

sides = st.integers(1, 3000)


@given(sides, sides)
def test_the_bucket_holds_the_image_and_little_more(height, width):
    bucket = choose_bucket(height, width)
    for padded, side in ((bucket.height, height), (bucket.width, width)):
        assert padded % 64 == 0
        assert 0 <= padded - side < (64 if side <= 1024 else 128)


@given(st.integers(1, 140), st.integers(1, 140))
def test_padding_and_cropping_give_the_image_back(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    bucket = choose_bucket(height, width)
    padded = pad_to_bucket(image, bucket)
    assert padded.shape == (bucket.height, bucket.width, 3)
    assert np.array_equal(crop_from_bucket(padded, height, width), image)


def test_padding_reflects_without_repeating_the_edge():
    image = np.arange(5 * 3, dtype=np.uint8).reshape(1, 5, 3)
    padded = pad_to_bucket(image, Bucket(64, 64))
    assert np.array_equal(padded[0, 5], image[0, 3])
    assert np.array_equal(padded[0, 9], image[0, 1]), "reflected again where padding exceeds it"
    assert np.array_equal(padded[63], padded[0]), "a single row is repeated"


def test_an_image_too_large_for_the_bucket_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        pad_to_bucket(np.zeros((65, 64, 3), np.uint8), Bucket(64, 64))


@pytest.mark.parametrize(("height", "width"), [(0, 64), (64, 63), (-64, 64)])
def test_odd_buckets_are_refused(height, width):
    with pytest.raises(ValueError, match="multiples of 64"):
        Bucket(height, width)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_images_without_pixels_are_refused(size):
    with pytest.raises(ValueError, match="at least one pixel"):
        choose_bucket(*size)


def test_holds():
    assert Bucket(128, 64).holds(Bucket(64, 64))
    assert not Bucket(128, 64).holds(Bucket(64, 128))


def test_an_image_that_fills_its_bucket_is_not_copied():
    pixels = np.zeros((64, 128, 3), np.uint8)
    assert pad_to_bucket(pixels, Bucket(64, 128)) is pixels
