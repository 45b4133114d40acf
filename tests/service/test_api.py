"""The HTTP contract, against a real server with a fake engine and a fake upstream."""

import base64
import json

import numpy as np
import pytest

from tests.service.pictures import encode, hostile_images, picture, pixels_of, png


def from_data_url(url):
    header, _, payload = url.partition(",")
    return header, base64.b64decode(payload)


def as_json(image, **fields):
    return {"json": {"image": base64.b64encode(image).decode(), **fields}}


def as_data_url(image, **fields):
    return {
        "json": {"image": f"data:image/png;base64,{base64.b64encode(image).decode()}", **fields}
    }


def as_form(image, **fields):
    return {"files": {"file": ("x", image)}, "data": fields}


def as_raw(image, **fields):
    return {"content": image, "headers": {"content-type": "image/png"}, "params": fields}


ENVELOPES = [as_json, as_data_url, as_form, as_raw]


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_purify_takes_every_envelope(service, envelope):
    response = service.client.post("/v1/purify", **envelope(png(50, 70)))
    assert response.status_code == 200
    answer = response.json()
    assert (answer["height"], answer["width"]) == (50, 70)
    header, purified = from_data_url(answer["purified_image"])
    assert header == "data:image/png;base64"
    assert np.array_equal(pixels_of(purified), 255 - picture(50, 70))
    assert answer["defense"] == {
        "purifier": {"name": "fake", "version": "1"},
        "strength": "standard",
        "steps": 1,
        "noise_level": 0.1,
        "prompt_template": None,
        "suspicion": None,
        "flagged": None,
        "bypassed": False,
        "cached": False,
    }
    assert set(answer["timings_ms"]) == {
        "admit", "decode", "queue", "purify", "encode", "total"
    }  # fmt: skip


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_questions_take_every_envelope(service, upstream, envelope):
    response = service.client.post("/v1/vqa", **envelope(png(), question="what {is} it?"))
    assert response.status_code == 200
    assert response.json()["answer"] == upstream.answer
    assert response.json()["usage"] == {"total_tokens": 7}
    assert response.json()["defense"]["prompt_template"]["name"]
    text = json.loads(upstream.bodies[0])["messages"][0]["content"][1]["text"]
    assert "what {is} it?" in text


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_output_formats(service, name):
    response = service.client.post("/v1/purify", **as_form(png(), output_format=name))
    header, purified = from_data_url(response.json()["purified_image"])
    assert header == f"data:image/{name};base64"
    difference = pixels_of(purified).astype(int) - (255 - picture().astype(int))
    assert np.abs(difference).max() <= (8 if name == "jpeg" else 0)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/jpeg;q=0.9, */*", "image/jpeg"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
    ],
)
def test_accept_chooses_between_json_and_the_image(service, accept, media_type):
    request = as_form(png()) | {"headers": {"accept": accept}}
    response = service.client.post("/v1/purify", **request)
    assert response.headers["content-type"] == media_type


def test_caption_asks_the_template_or_the_prompt(service, upstream):
    default = service.client.post("/v1/caption", **as_form(png()))
    assert default.json()["caption"] == upstream.answer
    service.client.post("/v1/caption", **as_form(png(), prompt="name the colour"))
    texts = [json.loads(body)["messages"][0]["content"][1]["text"] for body in upstream.bodies]
    assert "describe" in texts[0]
    assert "name the colour" in texts[1]


def test_fields_reach_the_upstream(service, upstream):
    fields = {"question": "?", "model": "llava", "max_tokens": 5, "temperature": 0.5}
    service.client.post("/v1/vqa", **as_json(png(), **fields))
    body = json.loads(upstream.bodies[0])
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("llava", 5, 0.5)
    service.client.post("/v1/vqa", **as_json(png(), question="?"))
    assert json.loads(upstream.bodies[1])["model"] == "first-model"


def test_the_upstream_never_sees_an_original_byte(service, upstream):
    canary = png(64, 64, seed=7)
    response = service.client.post("/v1/vqa", **as_json(canary, question="?"))
    _, purified = from_data_url(response.json()["purified_image"])
    url = json.loads(upstream.bodies[0])["messages"][0]["content"][0]["image_url"]["url"]
    assert from_data_url(url)[1] == purified
    assert base64.b64encode(canary)[:200] not in upstream.bodies[0]
    assert not np.array_equal(pixels_of(purified), pixels_of(canary))


def test_a_stream_ends_with_what_the_defence_did(service, upstream):
    request = as_form(png(), question="?", stream="true")
    with service.client.stream("POST", "/v1/vqa", **request) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    words = [chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1]]
    assert words == upstream.answer.split()
    assert chunks[-1]["choices"] == []
    told = chunks[-1]["codefend"]
    assert set(told) == {"purified_image", "defense", "timings_ms"}
    assert "forward" in told["timings_ms"]


@pytest.mark.parametrize(("name", "image", "status", "code"), hostile_images())
def test_hostile_images_are_refused(service, name, image, status, code):
    for request in (as_raw(image), as_form(image)):
        response = service.client.post("/v1/purify", **request)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, code), name
        assert set(error) == {"message", "type", "param", "code"}
    assert service.client.get("/readyz").status_code == 200


def text_of(image):
    return base64.b64encode(image).decode()


@pytest.mark.parametrize(
    ("path", "request_arguments", "status", "code", "param"),
    [
        ("/v1/vqa", as_form(png()), 400, "missing_field", "question"),
        ("/v1/vqa", as_form(png(), question=""), 400, "invalid_field", "question"),
        ("/v1/vqa", as_form(png(), question="?", top_k=1), 400, "invalid_field", "top_k"),
        ("/v1/vqa", as_form(png(), question="?", max_tokens=0), 400, "invalid_field", "max_tokens"),
        ("/v1/caption", as_form(png(), max_tokens=9999), 400, "invalid_field", "max_tokens"),
        ("/v1/purify", as_form(png(), output_format="gif"), 400, "invalid_field", "output_format"),
        ("/v1/purify", {"json": {}}, 400, "missing_field", "image"),
        ("/v1/purify", {"data": {"a": "b"}}, 415, "unsupported_media_type", "content-type"),
        ("/v1/purify", {"json": {"image": 7}}, 400, "invalid_field", "image"),
        ("/v1/purify", {"json": {"image": "@@@@"}}, 400, "invalid_field", "image"),
        ("/v1/purify", {"json": {"image": "data:image/png,abc"}}, 400, "invalid_field", "image"),
        ("/v1/purify", {"json": {"image": "http://a.b/c.png"}}, 400, "remote_image", "image"),
        ("/v1/purify", {"json": {"image": "HTTPS://a.b/c.png"}}, 400, "remote_image", "image"),
        ("/v1/purify", {"json": {"image": "file:///etc/passwd"}}, 400, "remote_image", "image"),
        ("/v1/purify", {"json": {"image": "//a.b/c.png"}}, 400, "remote_image", "image"),
        ("/v1/purify", {"json": [1]}, 400, "invalid_body", None),
        (
            "/v1/purify",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "invalid_body",
            None,
        ),
        (
            "/v1/purify",
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            400,
            "invalid_body",
            None,
        ),
        ("/v1/purify", {"content": b""}, 415, "unsupported_media_type", "content-type"),
        ("/v1/purify", {"content": b"a" * (33 << 20)}, 413, "body_too_large", None),
        ("/v1/vqa", as_json(png(), question="?" * 5000), 400, "invalid_field", "question"),
        ("/v1/vqa", as_json(png(), question="?" * 70_000), 400, "invalid_body", None),
        (
            "/v1/vqa",
            {
                "content": b'{"image": "", "x": ' + b"[" * 900 + b"]" * 900 + b"}",
                "headers": {"content-type": "application/json"},
            },
            400,
            "invalid_image",
            "image",
        ),
        (
            "/v1/vqa",
            {
                "content": b'{"image": "AAAA", "x": ' + b"[" * 90_000 + b"]" * 90_000 + b"}",
                "headers": {"content-type": "application/json"},
            },
            400,
            "invalid_body",
            None,
        ),
        ("/v1/nothing", {}, 404, "not_found", None),
        ("/healthz", {}, 405, "method_not_allowed", None),
    ],
)  # fmt: skip
def test_faulty_requests_are_refused(service, path, request_arguments, status, code, param):
    response = service.client.post(path, **request_arguments)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)


def test_a_chunked_body_is_counted_too(service):
    chunks = (b"a" * (1 << 20) for _ in range(40))
    response = service.client.post(
        "/v1/purify", content=chunks, headers={"content-type": "image/png"}
    )
    assert response.status_code == 413


def test_an_upstream_that_fails_is_a_502_without_its_words(service, upstream):
    upstream.status = 500
    response = service.client.post("/v1/vqa", **as_form(png(), question="?"))
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_error"
    assert upstream.answer not in response.text


def test_transparent_and_rotated_images_arrive_as_seen(service):
    clear = np.zeros((8, 8, 4), np.uint8)
    response = service.client.post("/v1/purify", **as_form(encode(clear)))
    _, purified = from_data_url(response.json()["purified_image"])
    assert np.array_equal(pixels_of(purified), np.zeros((8, 8, 3)))


def test_metrics_name_every_stage(service):
    service.client.post("/v1/vqa", **as_form(png(), question="?"))
    text = service.client.get("/metrics").text
    for stage in ("admit", "decode", "queue", "purify", "encode", "forward", "respond"):
        line = f'codefend_stage_duration_seconds_count{{stage="{stage}"}}'
        assert float(text.partition(line)[2].split()[0]) >= 1
    for name in ("queue_depth", "batch_size", "batch_padding_ratio", "requests_total"):
        assert f"codefend_{name}" in text


def test_probes_and_docs(service):
    assert service.client.get("/healthz").json() == {"status": "ok"}
    assert service.client.get("/readyz").json() == {"status": "ready"}
    assert "swagger" in service.client.get("/docs").text.lower()
    assert service.client.get("/healthz").headers["x-request-id"]
