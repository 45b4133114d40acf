"""The embedded model in Anthropic's protocol, around a tiny random model."""

import asyncio
import base64
import json

import anthropic
import httpx2
import pytest

from codefend.models.mllm.tiny import tiny_mllm
from codefend.service.mllm.app import create_mllm_app
from codefend.service.mllm.generation import load_generator
from codefend.service.protocols.base import EventRole
from codefend.service.protocols.messages import MESSAGES
from tests.service.pictures import png

TEXT = {"type": "text", "text": "what is it?"}
IMAGE = {
    "type": "image",
    "source": {
        "type": "base64",
        "media_type": "image/png",
        "data": base64.b64encode(png(128, 128)).decode(),
    },
}
USER = [{"role": "user", "content": [IMAGE, TEXT]}]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny_mllm():
        part.save_pretrained(directory)
    return load_generator(str(directory), "cpu")


def with_client(generator, use):
    """What a coroutine function makes of Anthropic's client."""

    async def scenario():
        transport = httpx2.ASGITransport(create_mllm_app(generator))
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            anthropic.AsyncAnthropic(
                base_url="http://mllm", api_key="-", http_client=http, max_retries=0
            ) as client,
        ):
            return await use(client)

    return asyncio.run(scenario())


def ask(generator, messages=USER, **fields):
    fields = {"model": "any", "max_tokens": 4} | fields
    return with_client(generator, lambda c: c.messages.create(messages=messages, **fields))


def count(generator, messages, **fields):
    counted = with_client(
        generator, lambda c: c.messages.count_tokens(model="any", messages=messages, **fields)
    )
    return counted.input_tokens


def test_an_answer_is_anthropics(generator):
    message = ask(generator)
    (block,) = message.content
    assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
    assert (block.type, type(block.text)) == ("text", str)
    assert message.stop_reason in {"end_turn", "max_tokens"}
    assert 1 <= message.usage.output_tokens <= 4


def test_a_stream_says_the_same(generator):
    async def streamed(client):
        fields = {"model": "any", "max_tokens": 4, "messages": USER}
        async with client.messages.stream(**fields) as stream:
            return await stream.get_final_message()

    whole, final = ask(generator), with_client(generator, streamed)
    assert final.content[0].text == whole.content[0].text
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == whole.stop_reason


def test_its_events_are_those_that_the_service_knows(generator):
    async def events(client):
        response = await client.messages.with_raw_response.create(
            model="any", max_tokens=2, messages=USER, stream=True
        )
        return (await response.http_response.aread()).splitlines()

    reader = MESSAGES.make_reader()
    payloads = [line[5:] for line in with_client(generator, events) if line.startswith(b"data:")]
    roles = [reader.read(payload) for payload in payloads]
    assert roles[-2:] == [EventRole.LAST, EventRole.DONE]


def test_tokens_are_counted_without_an_answer(generator, monkeypatch):
    monkeypatch.setattr(generator, "_pieces", lambda *_: iter([None]))
    assert count(generator, USER) > count(generator, [{"role": "user", "content": [TEXT]}])


def test_the_count_is_what_the_answer_says_of_it(generator):
    assert (
        count(generator, USER, system="be brief")
        == ask(generator, system="be brief").usage.input_tokens
    )


RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, IMAGE]}
PAGES = {"type": "document", "source": {"type": "content", "content": [TEXT, IMAGE]}}


@pytest.mark.parametrize(
    "content",
    [[RESULT], [PAGES], [{"type": "tool_result", "tool_use_id": "t", "content": [PAGES]}]],
)
def test_pictures_in_results_and_documents_are_the_users(generator, content):
    plain = count(generator, [{"role": "user", "content": [TEXT, IMAGE]}])
    assert count(generator, [{"role": "user", "content": content}]) == plain


def test_what_is_said_in_any_place_is_read_and_what_was_thought_is_not(generator):
    said = [{"role": "user", "content": [TEXT]}]
    for more in (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x y"}},
        {"type": "search_result", "source": "s", "title": "t", "content": [TEXT]},
        {"type": "tool_result", "tool_use_id": "t", "content": "x y"},
    ):
        assert count(generator, [{"role": "user", "content": [TEXT, more]}]) > count(
            generator, said
        )
    thought = {"type": "thinking", "thinking": "long " * 9, "signature": "s"}
    turns = [*said, {"role": "assistant", "content": [TEXT]}, *said]
    thinking = [said[0], {"role": "assistant", "content": [thought, TEXT]}, *said]
    assert count(generator, thinking) == count(generator, turns)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"stop_sequences": ["x"]}, "stop_sequences"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "output_config"),
        ({"extra_body": {"temperature": 3}}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages.0.content"),
    ],
)
def test_what_it_cannot_do_is_refused_in_anthropics_shape(generator, fields, param):
    with pytest.raises(anthropic.BadRequestError) as refusal:
        ask(generator, **fields)
    body = refusal.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["param"] == param


def test_what_asks_for_nothing_passes(generator):
    fields = {
        "tools": [],
        "stop_sequences": [],
        "thinking": {"type": "disabled"},
        "output_config": {"effort": "low"},
        "metadata": {"user_id": "u"},
        "extra_body": {"top_k": 3},
    }
    assert ask(generator, **fields).content


@pytest.mark.parametrize("data", ["AAAA", ""])
def test_an_image_that_cannot_be_read_is_refused(generator, data):
    source = {"type": "base64", "media_type": "image/png", "data": data}
    with pytest.raises(anthropic.BadRequestError) as refusal:
        ask(generator, [{"role": "user", "content": [{"type": "image", "source": source}]}])
    assert json.dumps(refusal.value.body).count("image")
