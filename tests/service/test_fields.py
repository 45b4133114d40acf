"""Fields of a chat over HTTP: nothing of a refused one is forwarded; shadow refuses none."""

import json
import logging

import numpy as np
import pytest
from pydantic import ValidationError

from codefend.service.policy import Mode, TextImages, UnknownFields
from codefend.service.settings import Settings
from tests.service.pictures import encode, picture, pixels_of, png
from tests.service.running import make_settings, run_service
from tests.service.test_api import as_form, from_data_url
from tests.service.test_chat import PATH, chat, forwarded, image_part, text_part, url_of, user

REMOTE = "https://pictures.example/a.png"
RAW = url_of(png(seed=9))
LONG = "word " * 10_000  # is read in a decode process


def elsewhere(url):
    return {"type": "image_url", "image_url": {"url": url}}


GOES_ROUND = {
    "g1": ({"extra_body": {"messages": [user(text_part("x"), elsewhere(REMOTE))]}}, "extra_body"),
    "g2": ({"extra_body": {"messages": [user(elsewhere(RAW))]}}, "extra_body"),
    "g3": ({"fallbacks": [{"model": "m2", "messages": [user(elsewhere(RAW))]}]}, "fallbacks"),
    "g4 image_base64": ({"image_base64": RAW}, "image_base64"),
    "g4 documents": ({"documents": [RAW]}, "documents[0]"),
    "g4 inline_data": ({"inline_data": {"data": RAW}}, "inline_data"),
    "g5": ({"prediction": RAW}, "prediction"),
    "g7 template": ({"chat_template": "{{x}}"}, "chat_template"),
    "g7 processor": ({"custom_logit_processor": "x"}, "custom_logit_processor"),
    "g7 transfer": ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
    "g7 base": ({"api_base": "http://10.0.0.1"}, "api_base"),
    "nobody's": ({"never_heard_of": [{"deep": RAW}]}, "never_heard_of"),
}


@pytest.mark.parametrize("text", ["hi", LONG], ids=["small", "large"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", GOES_ROUND)
def test_nothing_goes_round_the_guard_under_another_name(service, upstream, case, stream, text):
    fields, param = GOES_ROUND[case]
    body = chat({"role": "user", "content": text}, stream=stream, **fields)
    response = service.client.post(PATH, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert param.partition("[")[0] in error["message"]
    assert upstream.bodies == []


@pytest.mark.parametrize("text", ["hi", LONG], ids=["small", "large"])
@pytest.mark.parametrize("case", GOES_ROUND)
def test_shadow_mode_passes_it_as_it_is_and_counts_and_logs_its_name(
    service, upstream, caplog, case, text
):
    fields, param = GOES_ROUND[case]
    name = param.partition("[")[0]
    body = chat({"role": "user", "content": text}, **fields)
    with service.changed(mode=Mode.SHADOW), caplog.at_level(logging.INFO):
        assert service.client.post(PATH, json=body).status_code == 200
        service.settle()
    assert forwarded(upstream) == body
    service.wait_until(lambda: any("fields" in getattr(r, "fields", {}) for r in caplog.records))
    (logged,) = [r.fields["fields"] for r in caplog.records if "fields" in getattr(r, "fields", {})]
    assert logged["names"] == [name]
    (verdict,) = logged["verdicts"]
    assert service.metric("codefend_fields_total", verdict=verdict) >= 1
    assert "base64" not in caplog.text


def test_shadow_mode_purifies_on_the_side_what_it_can_read_and_passes_the_rest(service, upstream):
    broken = url_of(png(200, 200)[:-2000])
    bitmap = url_of(encode(picture(), "BMP"), "image/bmp")
    parts = [
        image_part(png(seed=1)),
        elsewhere(REMOTE),
        elsewhere(bitmap),
        elsewhere(broken),
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
    ]
    body = chat(user(*parts), codefend={"return_image": True})
    with service.changed(mode=Mode.SHADOW):
        response = service.client.post(PATH, json=body)
    assert response.status_code == 200
    got = forwarded(upstream)["messages"][0]["content"]
    assert got[1:] == parts[1:]
    assert np.array_equal(pixels_of(from_data_url(got[0]["image_url"]["url"])[1]), picture(seed=1))
    reports = response.json()["codefend"]["images"]
    assert [report["defense"]["bypassed"] for report in reports] == [True, True]
    shown = [report["purified_image"] for report in reports]
    assert np.array_equal(pixels_of(from_data_url(shown[0])[1]), 255 - picture(seed=1))
    assert shown[1] is None
    assert reports[1]["param"] == "messages[0].content[3].image_url.url"


def test_shadow_mode_keeps_the_limits_of_size(service, upstream):
    with service.changed(mode=Mode.SHADOW, max_request_pixels=100):
        assert service.client.post(PATH, json=chat(user(image_part(png())))).status_code == 413
    with service.changed(mode=Mode.SHADOW):
        assert service.client.post(PATH, json=chat(user(text_part()), n=99)).status_code == 400
        assert service.client.post(PATH, json=[1]).status_code == 400
    assert upstream.bodies == []


KEYS = """
[[keys]]
name = "watched"
key = "watched"
mode = "shadow"

[[keys]]
name = "strict"
key = "strict"
"""


def test_one_key_is_refused_what_another_in_shadow_passes(session_upstream, upstream, tmp_path):
    (tmp_path / "keys.toml").write_text(KEYS)
    settings = make_settings(session_upstream.url, api_keys_file=tmp_path / "keys.toml")
    body = chat(user(elsewhere(REMOTE)), extra_body={"a": 1})
    with run_service(settings) as service:

        def ask(key):
            headers = {"authorization": f"Bearer {key}"}
            return service.client.post(PATH, json=body, headers=headers).status_code

        assert ask("strict") == 400
        assert upstream.bodies == []
        assert ask("watched") == 200
    assert forwarded(upstream) == body


@pytest.mark.parametrize("text", ["hi", LONG], ids=["small", "large"])
def test_fields_that_are_dropped_are_counted_and_allowed_ones_pass(service, upstream, text):
    counted = service.metric("codefend_fields_total", verdict="dropped")
    message = {"role": "user", "content": text}
    body = chat(message | {"foo": ["x"]}, bar={"a": RAW}, chat_template="{{x}}")
    changes = {"unknown_fields": UnknownFields.DROP, "allowed_fields": ("chat_template",)}
    with service.changed(**changes):
        assert service.client.post(PATH, json=body).status_code == 200
    assert forwarded(upstream) == chat(message, chat_template="{{x}}")
    assert service.metric("codefend_fields_total", verdict="dropped") == counted + 2


@pytest.mark.parametrize(("path", "field"), [("/v1/vqa", "question"), ("/v1/caption", "prompt")])
def test_a_question_may_hold_no_image_either(service, upstream, path, field):
    def ask(question, **changes):
        with service.changed(**changes):
            response = service.client.post(path, **as_form(png(), **{field: question}))
        return response.status_code, response.json().get("error", {}).get("code")

    refused = (400, "image_in_text")
    data, link = f"![]({RAW[:900]})", "![](https://a.example/b.png)"
    assert ask(data) == refused
    assert ask("<image>", upstream_reads_text_images=(TextImages.PLACEHOLDERS,)) == refused
    assert ask(link, upstream_reads_text_images=(TextImages.MARKDOWN,)) == refused
    assert upstream.bodies == []
    counted = service.metric("codefend_fields_total", verdict="image_in_text")
    assert ask(data, mode=Mode.SHADOW) == (200, None)
    assert service.metric("codefend_fields_total", verdict="image_in_text") == counted + 1
    assert ask(link) == (200, None)
    assert ask("<image>") == (200, None)


def test_the_settings_are_read_as_lists(monkeypatch):
    monkeypatch.setenv("CODEFEND_ALLOWED_FIELDS", "chat_template, messages.foo,")
    monkeypatch.setenv("CODEFEND_UNKNOWN_FIELDS", "drop")
    monkeypatch.setenv("CODEFEND_UPSTREAM_READS_TEXT_IMAGES", "markdown,placeholders")
    settings = Settings()
    assert settings.allowed_fields == ("chat_template", "messages.foo")
    assert settings.unknown_fields is UnknownFields.DROP
    assert settings.upstream_reads_text_images == (TextImages.MARKDOWN, TextImages.PLACEHOLDERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_FIELDS", "messages[0].foo"),
        ("ALLOWED_FIELDS", "messages..foo"),
        ("UNKNOWN_FIELDS", "pass"),
        ("UPSTREAM_READS_TEXT_IMAGES", "markdwon"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"CODEFEND_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_the_codes_survive_a_decode_process(service, upstream):
    for extra, code in (
        ({"foo": "x"}, "unknown_field"),
        ({"extra_body": {"a": 1}}, "closed_field"),
        ({"stop": [f"![]({RAW})"]}, "image_in_text"),
    ):
        response = service.client.post(PATH, json=chat({"role": "user", "content": LONG}, **extra))
        assert json.loads(response.content)["error"]["code"] == code
