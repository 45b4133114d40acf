"""Failing closed and open, shadow mode and disclosure: what each setting changes, both ways."""

import json

import numpy as np
import pytest

from codefend.service.policy import Disclosure, Mode, OnPurifyFailure
from tests.service.fake_engine import FAIL, marked
from tests.service.pictures import encode, picture, pixels_of
from tests.service.test_api import as_form, from_data_url

BAD = encode(marked(picture(), FAIL))
GOOD = encode(picture())


def forwarded_pixels(upstream):
    url = json.loads(upstream.bodies[-1])["messages"][0]["content"][0]["image_url"]["url"]
    return pixels_of(from_data_url(url)[1])


def test_closed_an_image_that_cannot_be_purified_is_not_forwarded(service, upstream):
    response = service.client.post("/v1/vqa", **as_form(BAD, question="?"))
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "purification_failed"
    assert "Retry-After" in response.headers
    assert upstream.bodies == []


def test_open_it_is_forwarded_counted_and_marked(service, upstream):
    counted = service.metric("codefend_bypass_total", reason="purify_failure")
    with service.changed(on_purify_failure=OnPurifyFailure.PASS):
        response = service.client.post("/v1/vqa", **as_form(BAD, question="?"))
    assert response.status_code == 200
    assert response.json()["defense"]["bypassed"] is True
    assert response.json()["purified_image"] is None
    assert np.array_equal(forwarded_pixels(upstream), pixels_of(BAD))
    assert service.metric("codefend_bypass_total", reason="purify_failure") == counted + 1


@pytest.mark.parametrize("policy", list(OnPurifyFailure))
def test_purify_itself_never_returns_an_unpurified_image(service, policy):
    with service.changed(on_purify_failure=policy):
        response = service.client.post("/v1/purify", **as_form(BAD))
    assert response.status_code == 503


def test_shadow_forwards_the_original_and_shows_what_would_have_been(service, upstream):
    counted = service.metric("codefend_bypass_total", reason="shadow")
    with service.changed(mode=Mode.SHADOW):
        response = service.client.post("/v1/caption", **as_form(GOOD))
    _, purified = from_data_url(response.json()["purified_image"])
    assert np.array_equal(pixels_of(purified), 255 - picture())
    assert np.array_equal(forwarded_pixels(upstream), picture())
    assert response.json()["defense"]["bypassed"] is True
    assert service.metric("codefend_bypass_total", reason="shadow") == counted + 1


def test_shadow_answers_even_where_purification_fails(service, upstream):
    with service.changed(mode=Mode.SHADOW):
        response = service.client.post("/v1/caption", **as_form(BAD))
    assert response.status_code == 200
    assert response.json()["purified_image"] is None


def test_minimal_disclosure_tells_names_and_nothing_measured(service):
    with service.changed(disclose=Disclosure.MINIMAL):
        answer = service.client.post("/v1/vqa", **as_form(GOOD, question="?")).json()
    assert answer["timings_ms"] is None
    defense = answer["defense"]
    assert defense["purifier"] == {"name": "fake", "version": "1"}
    assert [defense[name] for name in ("steps", "noise_level", "suspicion", "flagged")] == [
        None
    ] * 4


def test_a_neighbour_of_a_failing_image_is_answered(service):
    """A failed batch runs again image by image: only the image at fault is refused."""
    import threading

    statuses = {}

    def post(name, image):
        statuses[name] = service.client.post("/v1/purify", **as_form(image)).status_code

    threads = [
        threading.Thread(target=post, args=(index, BAD if index == 0 else GOOD))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {0: 503, 1: 200, 2: 200, 3: 200}
