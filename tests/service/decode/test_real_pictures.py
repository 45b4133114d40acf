"""Pictures as the world makes them: what is taken and what is refused, and the right pixels."""

import base64

import numpy as np
import pytest

from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.errors import RequestRefused
from codefend.service.policy import Animated
from tests.service.decode.real_pictures import SIDES, real_pictures
from tests.service.pictures import animated, encode, picture, pixels_of
from tests.service.running import make_settings, run_service

LIMITS = PictureLimits(max_pixels=25_000_000, max_side_px=10_000)
FIRST = PictureLimits(max_pixels=25_000_000, max_side_px=10_000, animated=Animated.FIRST)
PICTURES = list(real_pictures())


def differ(pixels, expected):
    """By how much the pixel that is worst; another shape differs by everything."""
    if pixels.shape != expected.shape:
        return 256
    return int(np.abs(pixels.astype(int) - expected).max())


def test_there_are_enough():
    assert len(PICTURES) >= 60
    assert len({name for name, *_ in PICTURES}) == len(PICTURES)


@pytest.mark.parametrize(
    ("image", "expected", "tolerance"),
    [pytest.param(*rest, id=name) for name, *rest in PICTURES],
)
def test_a_picture_is_seen_as_a_viewer_shows_it(image, expected, tolerance):
    if isinstance(expected, str):
        with pytest.raises(RequestRefused) as refusal:
            decode_picture(image, LIMITS)
        assert refusal.value.code == expected
        return
    pixels, _ = decode_picture(image, LIMITS)
    assert pixels.dtype == np.uint8
    assert differ(pixels, expected) <= tolerance


@pytest.mark.parametrize(("name", "label"), [("tiff", "TIFF"), ("bmp", "BMP"), ("svg", "SVG"),
                                             ("pdf", "PDF"), ("ico", "ICO")])  # fmt: skip
def test_what_is_refused_is_named_with_what_to_send(name, label):
    image = next(image for other, image, *_ in PICTURES if other == name)
    with pytest.raises(RequestRefused, match=f"is a {label}. Send a JPEG") as refusal:
        decode_picture(image, LIMITS)
    assert refusal.value.status == 415


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_the_first_frame_of_an_animation_is_taken_where_the_operator_says_so(image_format):
    pixels, name = decode_picture(animated(image_format), FIRST)
    assert name == image_format
    # Lossy formats and a palette of 256 colours err; the second frame is another picture.
    assert np.abs(pixels.astype(int) - picture()).mean() < 8
    assert np.abs(pixels.astype(int) - picture(seed=1)).mean() > 30


@pytest.fixture(scope="module")
def service(session_upstream):
    with run_service(make_settings(session_upstream.url)) as running:
        yield running


@pytest.mark.slow
def test_a_running_service_takes_and_refuses_the_same(service):
    wrong = []
    for name, image, expected, _ in PICTURES:
        url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
        response = service.client.post("/v1/purify", json={"image": url})
        if isinstance(expected, str):
            got = response.json().get("error", {}).get("code", response.status_code)
            ok = got == expected
        else:
            got = response.status_code
            ok = (
                got == 200
                and (response.json()["height"], response.json()["width"]) == (expected.shape[:2])
            )
        if not ok:
            wrong.append((name, got, response.text[:200]))
    assert not wrong


@pytest.mark.slow
def test_a_running_service_takes_first_frames(session_upstream):
    settings = make_settings(session_upstream.url, animated="first")
    with run_service(settings) as running:
        for image_format in ("GIF", "PNG", "WEBP", "AVIF"):
            headers = {"content-type": "image/png", "accept": "image/png"}
            response = running.client.post(
                "/v1/purify", content=animated(image_format), headers=headers
            )
            assert response.status_code == 200, image_format
            assert pixels_of(response.content).shape == (*SIDES, 3)


def test_what_follows_the_first_picture_does_not_matter():
    first, other = encode(picture(), "JPEG"), encode(picture(seed=4), "JPEG")
    alone, _ = decode_picture(first, LIMITS)
    followed, _ = decode_picture(first + other, LIMITS)
    assert np.array_equal(alone, followed)
