"""POST /v1/chat/completions against a real server: what the upstream gets, what the client gets."""

import base64
import copy
import json

import numpy as np
import pytest

from codefend.service.policy import Disclosure, Mode, OnPurifyFailure
from tests.service.fake_engine import FAIL, marked
from tests.service.pictures import encode, hostile_images, picture, pixels_of, png
from tests.service.running import make_settings, run_service
from tests.service.test_api import from_data_url

PATH = "/v1/chat/completions"
BAD = encode(marked(picture(), FAIL))


def url_of(image, media_type="image/png"):
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


def image_part(image, **more):
    return {"type": "image_url", "image_url": {"url": url_of(image), **more}}


def text_part(text="what is it?"):
    return {"type": "text", "text": text}


def user(*content):
    return {"role": "user", "content": list(content)}


def chat(*messages, **fields):
    return {"model": "m", "messages": list(messages), **fields}


def as_typed(content, media_type="application/json"):
    return {"content": content, "headers": {"content-type": media_type}}


def forwarded(upstream):
    return json.loads(upstream.bodies[-1])


def forwarded_pixels(part):
    """The pixels of a forwarded part."""
    value = part["image_url"]
    return pixels_of(from_data_url(value if isinstance(value, str) else value["url"])[1])


def test_everything_but_the_pixels_reaches_the_upstream_as_it_was_sent(service, upstream):
    image = png(40, 56, seed=1)
    body = chat(
        {"role": "system", "content": "be brief", "name": "boss"},
        user(text_part("ünï 😀 \udc00"), image_part(image, detail="high")),
        n=2,
        logprobs=True,
        top_logprobs=3,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"image": "x"}}}],
        tool_choice="auto",
        response_format={"type": "json_object"},
        seed=7,
        temperature=0.30000000000000004,
        max_completion_tokens=17,
        stop=["\n", "data:"],
        metadata={"a": {"b": [1, None, True, 1e-7]}},
        never_heard_of=12345678901234567890,
    )
    response = service.client.post(PATH, **as_typed(json.dumps(body)))
    assert response.status_code == 200
    got, sent = forwarded(upstream), copy.deepcopy(body)
    part = got["messages"][1]["content"][1]
    assert np.array_equal(forwarded_pixels(part), 255 - picture(40, 56, seed=1))
    for document in (got, sent):
        del document["messages"][1]["content"][1]["image_url"]["url"]
    assert got == sent
    assert base64.b64encode(image)[:100] not in upstream.bodies[-1]


def test_the_answer_is_the_upstreams_byte_for_byte_but_for_one_field(service, upstream):
    answer = (
        b'{ "id":"x",  "choices":[{"index":0,"message":{"role":"assistant","content":"\\u00fc}",'
        b'"tool_calls":[{"id":"1"}]},"logprobs":{"content":[0.10]}}],"usage":{"total_tokens":1e1}\n}'
    )
    upstream.reply = lambda handler, _: handler.send(answer, "application/json")
    response = service.client.post(PATH, json=chat(user(image_part(png()))))
    told = response.json()["codefend"]
    end = response.content.index(b',"codefend":')
    assert response.content[:end] + b"}" == answer
    assert [image["param"] for image in told["images"]] == ["messages[0].content[0].image_url.url"]
    assert told["images"][0]["defense"]["purifier"] == {"name": "fake", "version": "1"}
    assert "purified_image" not in told["images"][0]
    stages = {"admit", "decode", "queue", "purify", "encode", "forward", "total"}
    assert set(told["timings_ms"]) == stages


def test_images_anywhere_in_the_conversation_are_purified(service, upstream):
    images = [png(40, 40 + 8 * index, seed=index) for index in range(6)]
    body = chat(
        {"role": "system", "content": [image_part(images[0])]},
        user(text_part(), image_part(images[1]), image_part(images[2])),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": [text_part(), image_part(images[3])]},
        {"role": "assistant", "content": [text_part("done"), {"type": "refusal", "refusal": "n"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": url_of(images[4])}, "so?"]},
        user(image_part(images[5])),
        codefend={"return_image": True},
    )
    response = service.client.post(PATH, json=body)
    parts = [
        part
        for message in forwarded(upstream)["messages"]
        for part in message["content"] or []
        if part != "so?" and part["type"] == "image_url"
    ]
    told = response.json()["codefend"]["images"]
    assert len(parts) == len(told) == 6
    for index, (part, report) in enumerate(zip(parts, told, strict=True)):
        expected = 255 - picture(40, 40 + 8 * index, seed=index)
        assert np.array_equal(forwarded_pixels(part), expected)
        shown = pixels_of(from_data_url(report["purified_image"])[1])
        assert np.array_equal(shown, expected)
        assert (report["height"], report["width"]) == (40, 40 + 8 * index)
    assert isinstance(parts[4]["image_url"], str), "the shape stays as it was"
    assert "codefend" not in forwarded(upstream)


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "PNG"])
def test_every_format_and_bare_base64(service, upstream, image_format):
    image = encode(picture(), image_format)
    bare = base64.b64encode(image).decode()
    for url in (bare, url_of(image, "image/anything"), f" {url_of(image)}\n"):
        body = chat(user({"type": "image_url", "image_url": {"url": url}}))
        assert service.client.post(PATH, json=body).status_code == 200
        part = forwarded(upstream)["messages"][0]["content"][0]
        assert part["image_url"]["url"].startswith("data:image/png;base64,")
        assert np.array_equal(forwarded_pixels(part), 255 - pixels_of(image))


def test_a_conversation_without_images_is_passed_on_as_it_is(service, upstream):
    body = chat({"role": "user", "content": "hi {question}"}, user(text_part("and?")), x=1.5)
    response = service.client.post(PATH, json=body)
    assert forwarded(upstream) == body
    assert response.json()["codefend"]["images"] == []
    assert "purify" not in response.json()["codefend"]["timings_ms"]


def test_a_large_conversation_is_read_in_a_decode_process(service, upstream):
    body = chat(user(text_part("word " * 200_000), image_part(png())), {"role": "x", "content": ""})
    response = service.client.post(PATH, json=body)
    assert response.status_code == 200
    got = forwarded(upstream)
    assert got["messages"][0]["content"][0] == body["messages"][0]["content"][0]
    assert np.array_equal(forwarded_pixels(got["messages"][0]["content"][1]), 255 - picture())
    refused = service.client.post(PATH, json=chat(user(text_part("a" * 20_000), {"type": "file"})))
    assert refused.json()["error"]["param"] == "messages[0].content[1].type"


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}])
def test_a_model_is_named_where_the_client_names_none(service, upstream, model):
    body = {"messages": [user(text_part())]} | model
    assert service.client.post(PATH, json=body).status_code == 200
    assert forwarded(upstream) == body | {"model": "first-model"}
    assert upstream.bodies[-1].count(b'"model"') == 1


def test_shadow_mode_forwards_the_originals_and_shows_what_would_have_been(service, upstream):
    counted = service.metric("codefend_bypass_total", reason="shadow")
    body = chat(user(image_part(png()), image_part(BAD)), codefend={"return_image": True})
    with service.changed(mode=Mode.SHADOW):
        response = service.client.post(PATH, json=body)
    parts = forwarded(upstream)["messages"][0]["content"]
    assert np.array_equal(forwarded_pixels(parts[0]), picture())
    assert np.array_equal(forwarded_pixels(parts[1]), pixels_of(BAD))
    told = response.json()["codefend"]["images"]
    assert [image["defense"]["bypassed"] for image in told] == [True, True]
    shown = pixels_of(from_data_url(told[0]["purified_image"])[1])
    assert np.array_equal(shown, 255 - picture())
    assert told[1]["purified_image"] is None
    assert service.metric("codefend_bypass_total", reason="shadow") == counted + 2


def test_closed_one_image_that_cannot_be_purified_stops_the_conversation(service, upstream):
    body = chat(user(image_part(png()), image_part(BAD), image_part(png(seed=1))))
    response = service.client.post(PATH, json=body)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "purification_failed"
    assert upstream.bodies == []


def test_open_it_alone_is_forwarded_counted_and_marked(service, upstream):
    counted = service.metric("codefend_bypass_total", reason="purify_failure")
    with service.changed(on_purify_failure=OnPurifyFailure.PASS):
        body = chat(user(image_part(png()), image_part(BAD)))
        response = service.client.post(PATH, json=body)
    told = response.json()["codefend"]["images"]
    assert [image["defense"]["bypassed"] for image in told] == [False, True]
    parts = forwarded(upstream)["messages"][0]["content"]
    assert np.array_equal(forwarded_pixels(parts[0]), 255 - picture())
    assert np.array_equal(forwarded_pixels(parts[1]), pixels_of(BAD))
    assert service.metric("codefend_bypass_total", reason="purify_failure") == counted + 1


def test_minimal_disclosure_tells_names_and_nothing_measured(service):
    with service.changed(disclose=Disclosure.MINIMAL):
        told = service.client.post(PATH, json=chat(user(image_part(png())))).json()["codefend"]
    assert told["timings_ms"] is None
    assert told["images"][0]["defense"]["noise_level"] is None
    assert told["images"][0]["defense"]["purifier"]["name"] == "fake"


def test_a_resent_history_is_replayed_image_by_image(session_upstream, upstream):
    settings = make_settings(session_upstream.url, cache_bytes=1 << 20, api_keys="ann,bob")
    first, second = image_part(png(seed=1)), image_part(png(seed=2))
    with run_service(settings) as service:

        def cached(key, *parts):
            headers = {"authorization": f"Bearer {key}"}
            answer = service.client.post(PATH, json=chat(user(*parts)), headers=headers)
            return [image["defense"]["cached"] for image in answer.json()["codefend"]["images"]]

        assert cached("ann", first) == [False]
        assert cached("ann", first, second) == [True, False]
        assert cached("bob", first, second) == [False, False]


@pytest.mark.parametrize(
    ("name", "image", "status", "code"), [case for case in hostile_images() if case[1]]
)
def test_a_hostile_image_is_refused_by_its_place(service, upstream, name, image, status, code):
    body = chat(user(image_part(png())), user(text_part(), image_part(image)))
    response = service.client.post(PATH, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["param"] == "messages[1].content[1].image_url.url"
    assert upstream.bodies == []


def test_the_images_of_a_conversation_are_counted_and_measured_together(service, upstream):
    parts = [image_part(png(40, 50, seed=index)) for index in range(4)]
    with service.changed(max_images=3):
        response = service.client.post(PATH, json=chat(user(*parts[:2]), user(*parts[2:])))
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "too_many_images"
        assert service.client.post(PATH, json=chat(user(*parts[:3]))).status_code == 200
    with service.changed(max_request_pixels=3 * 40 * 50):
        response = service.client.post(PATH, json=chat(user(*parts)))
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "image_too_large"
        assert service.client.post(PATH, json=chat(user(*parts[:3]))).status_code == 200
    assert len(upstream.bodies) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions",
        "/v1/embeddings",
        "/v1/files",
        "/v1/chat/completions/x",
        "/v1/model/first-model",
        "/api/chat",
        "/invocations",
        "/update_weights",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_paths_are_404_and_never_passed_through(service, upstream, method, path):
    body = {"json": chat(user(text_part()))} if method == "POST" else {}
    response = service.client.request(method, path, **body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert (upstream.bodies, upstream.headers) == ([], [])


@pytest.mark.parametrize(
    ("request_arguments", "status", "code", "param"),
    [
        (as_typed(b"{"), 400, "invalid_body", None),
        (as_typed(b"[" * 500_000), 400, "invalid_body", None),
        (as_typed(b"a" * (33 << 20)), 413, "body_too_large", None),
        (as_typed(png(), "image/png"), 415, "unsupported_media_type", "content-type"),
        ({"data": {"a": "b"}}, 415, "unsupported_media_type", "content-type"),
        ({"json": [1]}, 400, "invalid_body", None),
        ({"json": {"model": "m"}}, 400, "missing_field", "messages"),
    ],
)
def test_faulty_bodies_are_refused(service, upstream, request_arguments, status, code, param):
    response = service.client.post(PATH, **request_arguments)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert upstream.bodies == []


def test_models_are_the_upstreams(service, upstream):
    response = service.client.get("/v1/models")
    assert response.json() == {"data": [{"id": "first-model"}]}
    upstream.status = 500
    assert service.client.get("/v1/models").status_code == 502


def test_a_model_is_one_of_the_list(service, upstream):
    assert service.client.get("/v1/models/first-model").json() == {"id": "first-model"}
    unknown = service.client.get("/v1/models/org/other")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert service.client.post("/v1/models/first-model").status_code == 405
    assert upstream.bodies == []
    assert service.metric(
        "codefend_requests_total", endpoint="/v1/models/{model}", outcome="model_not_found"
    )


def test_nothing_of_the_clients_headers_reaches_the_upstream(service, upstream):
    headers = {
        "authorization": "Bearer theirs",
        "cookie": "theirs",
        "openai-organization": "theirs",
    }
    service.client.post(PATH, json=chat(user(text_part())), headers=headers)
    service.client.get("/v1/models", headers=headers)
    assert len(upstream.headers) == 2
    assert "theirs" not in str(upstream.headers)


def test_all_memory_of_the_images_is_given_back(service, upstream, leases):
    good = [image_part(png(seed=index)) for index in range(3)]
    for parts in ([*good, image_part(BAD)], [*good, image_part(b"no image")], good):
        service.client.post(PATH, json=chat(user(*parts)))
    assert len(leases) >= 8
    # A batch that runs on after its client was refused still holds what it works on.
    service.wait_until(lambda: not any(lease._num_holders for lease in leases))
    assert service.runtime.in_flight.num_inside == 0
