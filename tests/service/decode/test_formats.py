"""The table of formats: each row tells its own files, and all that is said of formats is its."""

import asyncio

import pytest

from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.decode.wire import open_envelope
from codefend.service.errors import RequestRefused
from codefend.service.formats import table
from codefend.service.formats.table import FORMATS, identify, sniff_format
from codefend.service.offline import SOURCE_SUFFIXES
from tests.service.pictures import encode, heic, picture

LIMITS = PictureLimits(max_pixels=4096, max_side_px=64)


def sample(row):
    pixels = picture(8, 10)
    return heic(pixels) if row.name == "HEIC" else encode(pixels, row.name)


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_a_file_is_told_decoded_and_passed_on_by_its_row(row):
    image = sample(row)
    assert sniff_format(image) == row.name
    pixels, format_name = decode_picture(image, LIMITS)
    assert (pixels.shape, format_name) == ((8, 10, 3), row.name)
    sent = asyncio.run(identify(image))
    assert sent.url.startswith(f"data:{row.media_type};base64,".encode())
    assert open_envelope(row.media_type, image) == (image, {})
    assert set(row.suffixes) <= SOURCE_SUFFIXES


def test_a_format_whose_extra_is_not_installed_is_refused_with_what_to_do(monkeypatch):
    image = heic(picture(8, 10))
    monkeypatch.setattr(table, "find_spec", lambda _module: None)
    with pytest.raises(RequestRefused) as refusal:
        decode_picture(image, LIMITS)
    assert (refusal.value.status, refusal.value.code) == (415, "unsupported_image")
    assert "Send a JPEG" in refusal.value.public_message
    assert "codefend[heic]" in refusal.value.public_message
    # Where nothing is decoded, it passes all the same.
    assert asyncio.run(identify(image)).facts["format"] == "HEIC"


def test_refusals_name_the_formats_that_are_taken():
    with pytest.raises(RequestRefused) as refusal:
        sniff_format(b"BM" + bytes(60))
    assert refusal.value.code == "unsupported_image"
    assert all(row.label in refusal.value.public_message for row in FORMATS.values())
    with pytest.raises(RequestRefused) as refusal:
        open_envelope("text/plain", b"x")
    assert refusal.value.code == "unsupported_media_type"
    assert all(row.media_type in refusal.value.public_message for row in FORMATS.values())
