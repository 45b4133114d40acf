"""OpenAI's responses in front of a tiny random model: whole, streamed, and what goes on."""

import asyncio
import json

import httpx
import pytest

from codefend.models.codec import ImageFormat, data_url
from codefend.service.errors import InvalidField
from codefend.service.mllm.app import create_mllm_app
from codefend.service.mllm.dialects.responses import _Memory
from codefend.service.mllm.generation import Turn
from tests.service.mllm.test_app import generator, send  # noqa: F401 - a fixture
from tests.service.pictures import png

IMAGE = {"type": "input_image", "image_url": data_url(png(128, 128), ImageFormat.PNG)}
ITEM = {"role": "user", "content": [{"type": "input_text", "text": "what is it?"}, IMAGE]}


def asking(**fields):
    body = {"input": [ITEM], "max_output_tokens": 4, **fields}
    return {"method": "POST", "url": "/v1/responses", "json": body}


def events_of(response):
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_stream_says_the_same_as_a_whole_answer(generator):  # noqa: F811
    whole, stream = send(generator, asking(), asking(stream=True))
    answer, events = whole.json(), events_of(stream)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]["response"]
    assert events[-1]["type"] == f"response.{answer['status']}"
    assert last["output"][0]["content"] == answer["output"][0]["content"]
    assert last["usage"] == answer["usage"]
    words = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert words == answer["output"][0]["content"][0]["text"]


def test_images_of_every_place_and_instructions_are_read(generator):  # noqa: F811
    items = [
        ITEM,
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [IMAGE]},
        {"type": "computer_call_output", "call_id": "d",
         "output": {"type": "computer_screenshot", "image_url": IMAGE["image_url"]}},
    ]  # fmt: skip
    one, three = send(generator, asking(), asking(input=items, instructions="be brief"))
    assert three.status_code == 200
    tokens = [answer.json()["usage"]["input_tokens"] for answer in (one, three)]
    assert tokens[1] > 2 * tokens[0]


def test_a_second_turn_goes_on_from_the_first(generator):  # noqa: F811
    async def scenario():
        transport = httpx.ASGITransport(create_mllm_app(generator))
        async with httpx.AsyncClient(transport=transport, base_url="http://mllm") as client:
            first = (await client.request(**asking())).json()
            item = {"type": "item_reference", "id": first["output"][0]["id"]}
            again = {"role": "user", "content": "and now?"}
            by_id = asking(input="and now?", previous_response_id=first["id"])
            by_items = asking(input=[ITEM, item, again])
            unkept = (await client.request(**asking(store=False))).json()
            lost = asking(previous_response_id=unkept["id"])
            return first, [await client.request(**each) for each in (by_id, by_items, lost)]

    first, (by_id, by_items, lost) = asyncio.run(scenario())
    assert by_id.json()["usage"] == by_items.json()["usage"]
    assert by_id.json()["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert lost.status_code == 400


def test_the_memory_is_bounded():
    memory = _Memory(100)
    for number in range(30):
        memory.keep(str(number), [Turn("user", ["x" * 30])])
    assert memory.find("29", "p")
    with pytest.raises(InvalidField):
        memory.find("0", "p")
    memory.keep("long", [Turn("user", ["x" * 200])])
    with pytest.raises(InvalidField):
        memory.find("long", "p")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "input.id"),
        ({"input": []}, "input"),
    ],
)
def test_what_the_model_cannot_do_is_a_400_that_names_the_field(generator, fields, param):  # noqa: F811
    (response,) = send(generator, asking(**fields))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_what_asks_for_nothing_more_is_answered(generator):  # noqa: F811
    fields = {"tools": [], "text": {"format": {"type": "text"}}, "reasoning": {"effort": None}}
    (response,) = send(generator, asking(**fields))
    assert response.status_code == 200
