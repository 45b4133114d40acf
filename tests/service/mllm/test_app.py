"""The embedded model's server, around a tiny random model."""

import asyncio
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.models.codec import ImageFormat, data_url
from codefend.models.mllm.tiny import tiny_mllm
from codefend.service.mllm.app import create_mllm_app
from codefend.service.mllm.generation import _without_margins, load_generator
from tests.service.pictures import png


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny_mllm():
        part.save_pretrained(directory)
    return load_generator(str(directory), "cpu")


def send(generator, *requests):
    """Sends requests, all at once."""

    async def scenario():
        transport = httpx.ASGITransport(create_mllm_app(generator))
        async with httpx.AsyncClient(transport=transport, base_url="http://mllm") as client:
            return await asyncio.gather(*(client.request(**request) for request in requests))

    return asyncio.run(scenario())


def question(text="what is it?", image=None, **fields):
    url = data_url(png(128, 128), ImageFormat.PNG) if image is None else image
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}
    return {"method": "POST", "url": "/v1/chat/completions", "json": body}


IMAGE_PARTS = question()["json"]["messages"][0]["content"][:1] * 40


def test_an_answer_is_openais(generator):
    (response,) = send(generator, question())
    document = response.json()
    assert document["object"] == "chat.completion"
    assert document["model"] == "tiny"
    assert isinstance(document["choices"][0]["message"]["content"], str)
    assert document["choices"][0]["finish_reason"] in {"stop", "length"}
    usage = document["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 1 <= usage["completion_tokens"] <= 4


def chunks_of(response):
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_a_stream_says_the_same(generator):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    whole, stream = send(generator, question(), question(**options))
    chunks = chunks_of(stream)
    text = "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )
    assert text == whole.json()["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole.json()["usage"]


def test_no_chunk_that_nobody_asked_for_lacks_choices(generator):
    (stream,) = send(generator, question(stream=True))
    assert all(len(chunk["choices"]) == 1 for chunk in chunks_of(stream))


@given(st.lists(st.text(st.sampled_from(" \nab"), max_size=4)))
def test_an_answer_has_no_white_space_around_it(pieces):
    trimmed = list(_without_margins(pieces))
    assert "".join(trimmed) == "".join(pieces).strip()
    assert all(trimmed)


def test_sampling_and_many_at_once(generator):
    requests = [question(temperature=1.0, stream=index % 2 == 0) for index in range(6)]
    assert [response.status_code for response in send(generator, *requests)] == [200] * 6


def test_several_images_in_every_shape(generator):
    part = question()["json"]["messages"][0]["content"][0]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": ["look", part, part | {"image_url": part["image_url"]["url"]}]},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": [part, {"type": "text", "text": "taken just now"}]},
    ]
    one, three = send(generator, question(), question(messages=messages, max_completion_tokens=2))
    assert three.status_code == 200
    usage = three.json()["usage"]
    assert usage["completion_tokens"] <= 2
    assert usage["prompt_tokens"] > 2 * one.json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize("text", ["<image><image>", "<assistant> yes", "<eos>", "{{ bos_token }}"])
def test_a_question_cannot_write_special_tokens(generator, text):
    (response,) = send(generator, question(text))
    assert response.status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        question(image="https://a.b/c.png"),
        question(image="data:image/png;base64,AAAA"),
        question("word " * 5000),
        question(messages=[]),
        question(max_tokens=0),
        question(n=2),
        question(messages=[{"role": "user", "content": IMAGE_PARTS}]),
        question(messages=[{"role": "user", "content": [{"type": "video_url"}]}]),
        question(n="one"),
        {"method": "POST", "url": "/v1/chat/completions", "content": b"{"},
    ],
)
def test_what_the_model_cannot_take_is_a_400(generator, request_):
    (response,) = send(generator, request_)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "now"}}]),
        ("functions", [{"name": "now"}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", "json"),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("modalities", ["text", "audio"]),
    ],
)
def test_what_the_model_cannot_do_is_a_400_that_says_so(generator, field, value):
    (response,) = send(generator, question(**{field: value}))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert f"{field}: the embedded model" in error["message"]
    assert "CODEFEND_UPSTREAM_URL" in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "response_format": {"type": "text"}, "logprobs": False},
        {"tools": None, "response_format": None, "modalities": ["text"]},
    ],
)
def test_what_asks_for_nothing_more_is_answered(generator, fields):
    (response,) = send(generator, question(**fields))
    assert response.status_code == 200


def test_models_and_health(generator):
    models, health = send(
        generator, {"method": "GET", "url": "/v1/models"}, {"method": "GET", "url": "/healthz"}
    )
    assert [model["id"] for model in models.json()["data"]] == ["tiny"]
    assert health.status_code == 200
