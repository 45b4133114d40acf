"""CODEFEND_MODE=off: images are forwarded as they were sent, and everybody is told."""

import base64
import json
import logging

import pytest
from pydantic import ValidationError

from codefend.service.policy import Mode, OnPurifyFailure
from tests.service.pictures import animated, encode, heic, picture, png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, from_data_url
from tests.service.test_chat import PATH, chat, image_part, text_part, user

JPEG = encode(picture(), "JPEG")
NO_ENGINE = "tests.service.test_off:no_such_loader"


@pytest.fixture(scope="module")
def off_service(session_upstream):
    """Its purifier could not even be loaded: that must not matter."""
    settings = make_settings(session_upstream.url, mode="off", engine=NO_ENGINE)
    with run_service(settings) as service:
        yield service


def bypasses(service):
    return service.metric("codefend_bypass_total", reason="off")


def header(subtype):
    return f"data:image/{subtype};base64"


def forwarded_files(upstream):
    content = json.loads(upstream.bodies[-1])["messages"][0]["content"]
    return [from_data_url(part["image_url"]["url"]) for part in content if "image_url" in part]


@pytest.mark.parametrize("small", [True, False])
def test_a_chats_images_are_forwarded_byte_for_byte_counted_and_marked(
    off_service, upstream, small, caplog
):
    counted = bypasses(off_service)
    # A long text sends the body through the decode process.
    text = text_part("what?" if small else "what?" * 10_000)
    body = chat(user(image_part(JPEG, detail="high"), image_part(png()), text))

    def audits():
        return [r.fields["bypassed"] for r in caplog.records if r.name == "codefend.audit"]

    with caplog.at_level(logging.INFO):
        response = off_service.client.post(PATH, json=body | {"codefend": {"return_image": True}})
        off_service.wait_until(lambda: len(audits()) == 2)  # written when the answer was sent
    assert response.status_code == 200
    assert forwarded_files(upstream) == [(header("jpeg"), JPEG), (header("png"), png())]
    told = response.json()["codefend"]["images"]
    assert [image["defense"]["bypassed"] for image in told] == [True, True]
    assert {image["purified_image"] for image in told} == {None}
    assert {image["defense"]["purifier"] for image in told} == {None}
    assert bypasses(off_service) == counted + 2
    assert audits() == ["off", "off"]
    assert sum("unpurified" in record.getMessage() for record in caplog.records) == 2


def test_what_the_service_could_not_decode_is_forwarded_as_it_was_sent_too(off_service, upstream):
    """Whether it reads these is the model's concern; a spelling of base64 is not passed on."""
    files = {
        "gif": animated("GIF"),
        "png": animated("PNG"),
        "avif": encode(picture(), "AVIF"),
        "heic": heic(picture()),
        "jpeg": JPEG.removesuffix(b"\xff\xd9"),
    }
    parts = [image_part(file) for file in files.values()]
    for part, file in zip(parts, files.values(), strict=True):
        text = base64.urlsafe_b64encode(file).decode().rstrip("=")
        part["image_url"]["url"] = f" data:image/png;base64,\n{text}"
    assert off_service.client.post(PATH, json=chat(user(*parts))).status_code == 200
    assert forwarded_files(upstream) == [(header(name), file) for name, file in files.items()]


@pytest.mark.parametrize(
    ("part", "verdict"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}, "remote_image"),
        ({"type": "input_audio", "input_audio": {"data": "a"}}, "unsupported_content"),
        (image_part(b"BM no picture"), "unsupported_image"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "invalid_field"),
    ],
)
def test_what_is_no_inline_image_passes_as_it_is_and_is_counted(
    off_service, upstream, part, verdict
):
    counted = off_service.metric("codefend_fields_total", verdict=verdict)
    body = chat(user(part))
    assert off_service.client.post(PATH, json=body).status_code == 200
    assert json.loads(upstream.bodies[-1]) == body
    assert off_service.metric("codefend_fields_total", verdict=verdict) == counted + 1


def test_a_stream_tells_of_the_bypass_too(off_service, upstream):
    body = chat(user(image_part(JPEG), text_part()), stream=True)
    with off_service.client.stream("POST", PATH, json=body) as response:
        events = response.read().decode()
    assert '"bypassed": true' in events
    assert forwarded_files(upstream) == [(header("jpeg"), JPEG)]


@pytest.mark.parametrize("path", ["/v1/caption", "/v1/vqa"])
def test_questions_see_the_image_as_it_was_sent_and_no_purified_one(off_service, upstream, path):
    fields = {"question": "?"} if path == "/v1/vqa" else {}
    answer = off_service.client.post(path, **as_form(JPEG, **fields)).json()
    assert answer["purified_image"] is None
    assert answer["defense"]["bypassed"] is True
    assert forwarded_files(upstream) == [(header("jpeg"), JPEG)]


def test_a_question_that_is_refused_bypasses_nothing(off_service, upstream):
    counted = bypasses(off_service)
    assert off_service.client.post("/v1/vqa", **as_form(JPEG)).status_code == 400
    assert off_service.client.post("/v1/caption", **as_form(b"no image")).status_code == 415
    assert bypasses(off_service) == counted
    assert upstream.bodies == []


def test_purify_refuses_and_says_why(off_service):
    response = off_service.client.post("/v1/purify", **as_form(JPEG))
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "purification_off"
    assert response.headers["x-should-retry"] == "false"


def test_no_worker_is_started_and_the_log_says_that_it_is_off(session_upstream, caplog):
    settings = make_settings(session_upstream.url, mode="off", engine=NO_ENGINE)
    with caplog.at_level(logging.WARNING), run_service(settings) as service:
        assert service.runtime.workers.worker_pids == []
        assert service.client.get("/readyz").status_code == 200
    assert any("purification is off" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("value", ["", "false", "False", "0", "no", "OFF", "none", "disabled"])
def test_no_other_word_switches_it_off(monkeypatch, value):
    """YAML reads a bare `off` as false."""
    from codefend.service.settings import Settings

    monkeypatch.setenv("CODEFEND_MODE", value)
    if value:
        with pytest.raises(ValidationError):
            Settings()
    else:
        assert Settings().mode is Mode.ENFORCE


def test_failing_open_is_not_off(service, upstream):
    with service.changed(on_purify_failure=OnPurifyFailure.PASS):
        response = service.client.post(PATH, json=chat(user(image_part(JPEG))))
    assert response.json()["codefend"]["images"][0]["defense"]["bypassed"] is False
