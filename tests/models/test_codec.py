import base64
import io

import numpy as np
import pytest
from PIL import Image

from codefend.models.codec import ImageFormat, data_url, encode_image


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
