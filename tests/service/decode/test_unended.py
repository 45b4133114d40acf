"""A JPEG that lacks its end marker is decoded; one that lacks any of its data is not."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.errors import InvalidImage
from tests.service.pictures import encode, picture

LIMITS = PictureLimits(max_pixels=1_000_000, max_side_px=1000)
END = b"\xff\xd9"
NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
KINDS = {
    "baseline": {},
    "coarse": {"quality": 30},
    "fine": {"quality": 95, "subsampling": 0},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "restarts, progressive": {"progressive": True, "restart_marker_rows": 1},
}
PICTURES = {"smooth": picture(40, 56), "noise": NOISE, "odd": picture(37, 53, 3)}


def viewed(image):
    """Its pixels as libjpeg makes them of whatever is there."""
    return np.asarray(JpegImageFile(io.BytesIO(image)).convert("RGB"))


def decoded(image):
    try:
        return decode_picture(image, LIMITS)[0]
    except InvalidImage:
        return None


@pytest.mark.parametrize("pixels", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_end_marker_alone_may_be_missing(pixels, options):
    whole = encode(pixels, "JPEG", **options)
    expected = viewed(whole)
    data = whole.removesuffix(END)
    for ending in (b"", b"\xff", b"\xff\xff", b"\0" * 20):
        assert np.array_equal(decoded(data + ending), expected), ending
    forgiven = []
    for cut in (*range(1, 24), *range(24, len(data) - 20, max(1, len(data) // 40))):
        found = decoded(data[:-cut])
        # Only what changes no pixel may be missing.
        if found is not None and not np.array_equal(found, expected):
            forgiven.append(cut)
    assert forgiven == []


def test_greyscale_and_cmyk_too():
    for mode in ("L", "CMYK"):
        buffer = io.BytesIO()
        Image.fromarray(NOISE).convert(mode).save(buffer, "JPEG")
        whole = buffer.getvalue()
        expected, _ = decode_picture(whole, LIMITS)
        assert np.array_equal(decoded(whole.removesuffix(END)), expected)
        assert decoded(whole[:-60]) is None


def test_a_progressive_file_that_ends_between_two_scans_is_truncated():
    whole = encode(NOISE, "JPEG", progressive=True)
    starts, where = [], whole.find(b"\xff\xda")
    while where >= 0:
        starts.append(where)
        where = whole.find(b"\xff\xda", where + 2)
    assert len(starts) > 5
    for start in starts[1:]:
        table = whole.rfind(b"\xff\xc4", 0, start)  # what belongs to a scan stands before it
        assert decoded(whole[:table]) is None
        assert decoded(whole[:table] + END) is not None  # a whole file may end early: its choice


def test_other_formats_get_no_second_chance():
    for image_format in ("PNG", "WEBP", "GIF", "AVIF"):
        image = encode(NOISE, image_format)
        assert decoded(image[: len(image) * 9 // 10]) is None
