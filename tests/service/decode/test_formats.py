"""The table of formats: each row tells its own files, and all that is said of formats is its."""

import asyncio
import io

import pytest
from PIL import Image

from codefend.service.decode.formats import FORMATS, identify, sniff_format
from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.decode.wire import open_envelope
from codefend.service.errors import RequestRefused
from codefend.service.offline import SOURCE_SUFFIXES

LIMITS = PictureLimits(max_pixels=100, max_side_px=10)


def samples(row):
    for mode in row.sample_modes:
        buffer = io.BytesIO()
        Image.new(mode, (10, 8)).save(buffer, row.name)
        yield buffer.getvalue()


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_a_file_is_told_decoded_and_passed_on_by_its_row(row):
    for image in samples(row):
        assert sniff_format(image) == row.name
        pixels, format_name = decode_picture(image, LIMITS)
        assert (pixels.shape, format_name) == ((8, 10, 3), row.name)
        sent = asyncio.run(identify(image))
        assert sent.url.startswith(f"data:{row.media_type};base64,")
        assert open_envelope(row.media_type, image) == (image, {})
    assert set(row.suffixes) <= SOURCE_SUFFIXES


def test_refusals_name_the_formats_that_are_taken():
    with pytest.raises(RequestRefused) as refusal:
        sniff_format(b"BM" + bytes(60))
    assert refusal.value.code == "unsupported_image"
    assert all(row.label in refusal.value.public_message for row in FORMATS.values())
    with pytest.raises(RequestRefused) as refusal:
        open_envelope("text/plain", b"x")
    assert refusal.value.code == "unsupported_media_type"
    assert all(row.media_type in refusal.value.public_message for row in FORMATS.values())
