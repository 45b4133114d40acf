import base64
import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from codefend.models.codec import ImageFormat, chroma_subsampling, data_url, encode_image


@pytest.fixture
def pixels():
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((50, 30), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_round_trip(pixels, image_format):
    encoded = encode_image(pixels, image_format)
    picture = Image.open(io.BytesIO(encoded))
    assert picture.format == image_format.name
    difference = np.abs(np.asarray(picture.convert("RGB")).astype(int) - pixels)
    assert difference.max() <= (8 if image_format is ImageFormat.JPEG else 0)


@pytest.mark.parametrize(
    ("quality", "sampling"), [(60, "4:2:0"), (89, "4:2:0"), (90, "4:4:4"), (95, "4:4:4")]
)
def test_a_jpeg_keeps_colours_as_its_quality_says(pixels, quality, sampling):
    picture = Image.open(io.BytesIO(encode_image(pixels, ImageFormat.JPEG, quality)))
    assert chroma_subsampling(quality) == sampling
    assert JpegImagePlugin.get_sampling(picture) == {"4:4:4": 0, "4:2:0": 2}[sampling]


def test_a_lower_quality_is_a_smaller_file(pixels):
    sizes = [len(encode_image(pixels, ImageFormat.JPEG, quality)) for quality in (60, 75, 95)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 5), (257, 300)])
@pytest.mark.parametrize("kind", ["noise", "flat", "rows", "columns"])
def test_a_png_is_lossless_and_sound(size, kind):
    """By a decoder that checks every checksum, and without the leniency for cut files."""
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    made = {
        "noise": noise,
        "flat": np.full_like(noise, 200),
        "rows": np.broadcast_to(noise[:, :1], noise.shape),
        "columns": np.broadcast_to(noise[:1], noise.shape),
    }[kind]
    encoded = encode_image(made)
    with Image.open(io.BytesIO(encoded)) as checked:
        checked.verify()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded))), made)


def test_a_flat_png_is_small():
    assert len(encode_image(np.full((512, 512, 3), 200, np.uint8))) < 8192


def test_a_view_of_padded_pixels_is_encoded(pixels):
    assert encode_image(pixels[:20, :20]) == encode_image(pixels[:20, :20].copy())


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (1, 4, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected uint8"):
        encode_image(np.zeros(shape, np.uint8))


def test_data_url():
    header, _, payload = data_url(b"abc", ImageFormat.WEBP).partition(",")
    assert header == "data:image/webp;base64"
    assert base64.b64decode(payload) == b"abc"
