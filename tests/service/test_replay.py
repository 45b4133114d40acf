"""The same bytes of the same key are purified once; of another key, or changed, anew."""

import base64

import numpy as np
import pytest

from tests.service.fake_engine import FAIL, marked
from tests.service.pictures import encode, picture, pixels_of, png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, from_data_url


@pytest.fixture(scope="module")
def caching(session_upstream):
    settings = make_settings(session_upstream.url, cache_bytes=1 << 20, api_keys="ann,bob")
    with run_service(settings) as service:
        yield service


def ask(service, image, key="ann", path="/v1/vqa", **fields):
    request = as_form(image, **({"question": "?"} if path == "/v1/vqa" else {}), **fields)
    return service.client.post(path, **request, headers={"authorization": f"Bearer {key}"})


def test_a_file_sent_again_is_replayed_and_marked(caching):
    image = png(40, 56, seed=1)
    before = caching.metric("codefend_cached_total")
    first, again = ask(caching, image).json(), ask(caching, image).json()
    assert [first["defense"]["cached"], again["defense"]["cached"]] == [False, True]
    assert again["purified_image"] == first["purified_image"]
    assert "purify" not in again["timings_ms"]
    assert caching.metric("codefend_cached_total") == before + 1


def test_every_endpoint_shares_the_replay(caching):
    image = png(40, 56, seed=2)
    ask(caching, image)
    purified = ask(caching, image, path="/v1/purify", output_format="webp").json()
    assert purified["defense"]["cached"]
    pixels = pixels_of(from_data_url(purified["purified_image"])[1])
    assert np.array_equal(pixels, 255 - picture(40, 56, seed=2))


def test_another_key_is_not_told_that_the_file_was_here(caching):
    image = png(40, 56, seed=3)
    ask(caching, image)
    assert ask(caching, image, key="bob").json()["defense"]["cached"] is False


def test_other_bytes_of_the_same_pixels_are_purified_anew(caching):
    ask(caching, png(40, 56, seed=4))
    other = encode(picture(40, 56, seed=4), "webp", lossless=True)
    assert ask(caching, other).json()["defense"]["cached"] is False


def test_a_failure_is_not_remembered_as_a_picture(caching):
    bad = encode(marked(picture(seed=5), FAIL))
    assert [ask(caching, bad).status_code for _ in range(2)] == [503, 503]


def test_the_upstream_sees_the_replayed_picture(caching, upstream):
    image = png(40, 56, seed=6)
    shown = [ask(caching, image).json()["purified_image"] for _ in range(2)]
    assert all(base64.b64decode(url.partition(",")[2]) for url in shown)
    assert all(url.encode() in body for url, body in zip(shown, upstream.bodies, strict=True))
