"""The embedded model's server, around a tiny random model."""

import asyncio
import json

import httpx
import pytest

from codefend.models.codec import ImageFormat, data_url
from codefend.models.mllm.tiny import tiny_mllm
from codefend.service.mllm.app import create_mllm_app
from codefend.service.mllm.generation import load_generator
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


def test_a_stream_says_the_same(generator):
    whole, stream = send(generator, question(), question(stream=True))
    events = [line.removeprefix("data: ") for line in stream.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )
    assert text.strip() == whole.json()["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == whole.json()["usage"]


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
    ],
)
def test_what_the_model_cannot_take_is_a_400(generator, request_):
    (response,) = send(generator, request_)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_models_and_health(generator):
    models, health = send(
        generator, {"method": "GET", "url": "/v1/models"}, {"method": "GET", "url": "/healthz"}
    )
    assert [model["id"] for model in models.json()["data"]] == ["tiny"]
    assert health.status_code == 200
