"""POST /v1/guardrail: the verdicts in each mode, what comes with them, and what is refused."""

import base64
import json

import numpy as np
import pytest

from codefend.service.policy import Disclosure, Mode, OnFlagged, OnPurifyFailure
from tests.service.fake_engine import FAIL, marked
from tests.service.pictures import encode, picture, pixels_of
from tests.service.running import make_settings, run_service
from tests.service.test_api import from_data_url

pytestmark = pytest.mark.slow

PATH = "/v1/guardrail"
MIB = 1 << 20


def url(pixels, image_format="PNG"):
    encoded = base64.b64encode(encode(pixels, image_format)).decode()
    return f"data:image/{image_format.lower()};base64,{encoded}"


def looks(red):
    """A picture that the fake engine suspects so much."""
    pixels = picture(24, 32, seed=red).copy()
    pixels[-1, -1, 0] = red
    return pixels


CLEAN, ALTERED = looks(10), looks(255)


def ask(service, *images, **more):
    return service.client.post(PATH, json={"images": list(images)}, **more)


def seen(answer):
    return [pixels_of(from_data_url(image)[1]) for image in answer["images"]]


@pytest.fixture(scope="module")
def suspicious():
    """Asks no upstream: there is none at its address."""
    settings = make_settings(
        engine_options={"suspects": True}, disclose=Disclosure.FULL, upstream_breaker_failures=1
    )
    with run_service(settings) as service:
        yield service


def test_images_come_back_purified_in_their_order(suspicious):
    pictures = [picture(24, 32, seed=seed) for seed in range(3)]
    answer = ask(suspicious, *map(url, pictures)).json()
    assert answer["verdict"] == "modify"
    for pixels, purified in zip(pictures, seen(answer), strict=True):
        assert np.array_equal(purified, 255 - pixels)


def test_every_format_and_bare_base64_comes_back_as_png(suspicious):
    forms = [url(picture(), kind) for kind in ("PNG", "JPEG", "WEBP")]
    forms.append(forms[0].partition(",")[2])
    answer = ask(suspicious, *forms).json()
    assert all(image.startswith("data:image/png;base64,") for image in answer["images"])
    assert np.array_equal(seen(answer)[3], 255 - picture())


def test_no_images_are_allowed(suspicious):
    answer = ask(suspicious).json()
    assert (answer["verdict"], answer["images"]) == ("allow", [])


def test_full_disclosure_tells_what_each_looked_like(suspicious):
    answer = ask(suspicious, url(CLEAN), url(ALTERED)).json()
    assert answer["suspicion"] == [pytest.approx(10 / 255), 1.0]
    assert answer["flagged"] == [False, True]
    assert answer["verdict"] == "modify"


def test_minimal_disclosure_tells_the_verdict_alone(suspicious):
    with suspicious.changed(disclose=Disclosure.MINIMAL):
        answer = ask(suspicious, url(ALTERED)).json()
    assert (answer["suspicion"], answer["flagged"], answer["reason"]) == (None, None, None)


def test_what_is_flagged_is_denied_where_the_policy_says_so(suspicious):
    with suspicious.changed(on_flagged=OnFlagged.REFUSE):
        response = ask(suspicious, url(CLEAN), url(ALTERED))
    answer = response.json()
    assert response.status_code == 200
    assert (answer["verdict"], answer["images"]) == ("deny", [])
    assert answer["reason"].startswith("images[1]: ")
    name = "codefend_requests_total"
    assert suspicious.metric(name, endpoint=PATH, outcome="image_flagged") == 1


def test_in_shadow_mode_the_originals_are_allowed_and_judged(suspicious):
    with suspicious.changed(mode=Mode.SHADOW, on_flagged=OnFlagged.REFUSE):
        answer = ask(suspicious, url(ALTERED)).json()
    assert (answer["verdict"], answer["flagged"]) == ("allow", [True])
    assert np.array_equal(seen(answer)[0], ALTERED)


def test_one_that_cannot_be_purified_fails_all_of_them(suspicious):
    broken = url(marked(picture(24, 32), FAIL))
    response = ask(suspicious, url(CLEAN), broken)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "purification_failed"
    with suspicious.changed(on_purify_failure=OnPurifyFailure.PASS):
        answer = ask(suspicious, url(CLEAN), broken).json()
    assert answer["verdict"] == "modify"
    assert np.array_equal(seen(answer)[0], 255 - CLEAN)


def test_where_purification_is_off_all_is_allowed_as_it_was_sent():
    with run_service(make_settings(mode=Mode.OFF)) as service:
        answer = ask(service, url(CLEAN)).json()
    assert (answer["verdict"], answer["images"]) == ("allow", [url(CLEAN)])


REFUSED = {
    "damaged": ([url(CLEAN), url(CLEAN)[:-400]], 400, "invalid_image", "images[1]"),
    "elsewhere": ([url(CLEAN), "https://example.org/a.png"], 400, "remote_image", "images[1]"),
    "no base64": ([url(CLEAN), "data:image/png;base64,?"], 400, "invalid_field", "images[1]"),
    "no image": (["data:image/png;base64,aGVsbG8="], 415, "unsupported_image", "images[0]"),
    "empty": ([""], 400, "invalid_image", "images[0]"),
    "too many": ([url(CLEAN)] * 65, 400, "too_many_images", "images"),
    "an object": ([{"url": url(CLEAN)}], 400, "invalid_field", "images"),
    "no list": (url(CLEAN), 400, "invalid_field", "images"),
    "null": (None, 400, "invalid_field", "images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused_by_its_place(suspicious, case):
    images, status, code, param = REFUSED[case]
    with suspicious.changed(max_images=64):
        response = suspicious.client.post(PATH, json={"images": images})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_field", "images"),
        ({"images": [], "model": "m"}, "invalid_field", "model"),
        ([], "invalid_body", None),
    ],
)
def test_nothing_else_is_taken(suspicious, body, code, param):
    error = suspicious.client.post(PATH, json=body).json()["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_json_alone_is_taken(suspicious):
    headers = {"content-type": "text/plain"}
    response = suspicious.client.post(PATH, content=b'{"images": []}', headers=headers)
    assert response.status_code == 415


def test_all_pixels_of_a_request_are_bounded(suspicious):
    with suspicious.changed(max_request_pixels=24 * 32 * 3 - 1):
        response = ask(suspicious, *(url(CLEAN) for _ in range(3)))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "image_too_large")


def test_a_body_has_a_bound(suspicious):
    with suspicious.changed(max_body_bytes=MIB):
        assert ask(suspicious, "A" * MIB).status_code == 413


def test_it_needs_no_model(suspicious):
    """The upstream fails, and whoever asks it is turned away at once."""
    client = suspicious.client
    for _ in range(2):
        broken = client.post("/v1/vqa", json={"image": url(CLEAN), "question": "?"})
    assert broken.json()["error"]["code"] == "upstream_down"
    assert ask(suspicious, url(CLEAN)).status_code == 200


def test_a_key_may_be_confined_to_it(tmp_path):
    file = tmp_path / "keys.toml"
    secret = "guard-key-0123456789abcdef"
    entry = f'[[keys]]\nname = "gateway"\nkey = "{secret}"\nendpoints = ["{PATH}"]\n'
    file.write_text(entry + 'disclose = "full"\n')
    with run_service(make_settings(api_keys_file=file)) as service:
        headers = {"authorization": f"Bearer {secret}"}
        assert ask(service, url(CLEAN)).status_code == 401
        answer = ask(service, url(CLEAN), headers=headers)
        assert answer.json()["suspicion"] == [None]
        other = service.client.post("/v1/purify", json={"image": url(CLEAN)}, headers=headers)
        assert other.status_code == 403


def test_the_log_says_what_was_decided(suspicious, caplog):
    with suspicious.changed(on_flagged=OnFlagged.REFUSE), caplog.at_level("INFO"):
        ask(suspicious, url(ALTERED))
        suspicious.settle()
    facts = [json.dumps(getattr(record, "fields", {}), default=str) for record in caplog.records]
    assert any('"image_flagged"' in line and '"sha256"' in line for line in facts)
