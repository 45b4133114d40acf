"""Decoding itself, in this process: what comes out, and that every refusal is one of ours."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.errors import RequestRefused
from tests.service.pictures import encode, hostile_images, picture, png

LIMITS = PictureLimits(max_pixels=25_000_000, max_side_px=10_000)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_plain_pictures(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    pixels, name = decode_picture(encode(picture(), image_format, **options), LIMITS)
    assert name == image_format
    assert (pixels.shape, pixels.dtype) == ((48, 64, 3), np.uint8)
    if image_format != "JPEG":
        assert np.array_equal(pixels, picture())


@pytest.mark.parametrize(("name", "image", "status", "code"), hostile_images())
def test_hostile_pictures(name, image, status, code):
    with pytest.raises(RequestRefused) as refusal:
        decode_picture(image, LIMITS)
    assert (refusal.value.status, refusal.value.code) == (status, code), name


def test_orientation_is_applied_and_metadata_dropped():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    pixels, _ = decode_picture(encode(picture(), "PNG", exif=exif), LIMITS)
    assert np.array_equal(pixels, np.rot90(picture(), -1))


def test_alpha_is_laid_on_white():
    rgba = np.dstack([picture(), np.zeros((48, 64), np.uint8)])
    rgba[:, 32:, 3] = 255
    pixels, _ = decode_picture(encode(rgba), LIMITS)
    assert (pixels[:, :32] == 255).all()
    assert np.array_equal(pixels[:, 32:], picture()[:, 32:])


@pytest.mark.parametrize(
    "source",
    [
        Image.fromarray(picture()).convert("L"),
        Image.fromarray(picture()).convert("1"),
        Image.fromarray(picture()).convert("P"),
        Image.fromarray(picture()).convert("LA"),
        Image.fromarray(picture()[..., 0].astype(np.uint16) * 257),
    ],
    ids=["grey", "bits", "palette", "grey with alpha", "16 bits"],
)
def test_other_modes_become_rgb(source):
    buffer = io.BytesIO()
    source.save(buffer, "PNG")
    pixels, _ = decode_picture(buffer.getvalue(), LIMITS)
    assert pixels.shape == (48, 64, 3)
    eight_bits = source.convert("RGB") if source.mode != "I;16" else picture()[..., :1]
    assert np.array_equal(pixels, np.broadcast_to(np.asarray(eight_bits), pixels.shape))


def test_cmyk_jpeg():
    buffer = io.BytesIO()
    Image.fromarray(picture()).convert("CMYK").save(buffer, "JPEG")
    pixels, _ = decode_picture(buffer.getvalue(), LIMITS)
    assert pixels.shape == (48, 64, 3)


def test_limits_hold_before_pixels_are_read():
    with pytest.raises(RequestRefused) as refusal:
        decode_picture(png(40, 60), PictureLimits(max_pixels=2399, max_side_px=100))
    assert "60x40" in refusal.value.public_message


@given(st.data())
def test_a_damaged_file_is_decoded_or_refused_and_nothing_else(data):
    image_format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    image = bytearray(encode(picture(16, 16), image_format))
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RequestRefused):
        decode_picture(bytes(image), LIMITS)
