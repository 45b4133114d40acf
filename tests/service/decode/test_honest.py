"""What real clients send passes unchanged: bodies that tests/honest/record.py recorded."""

import json
from pathlib import Path

import pytest

from codefend.service.decode.chat import ChatLimits, open_chat
from codefend.service.forward.completion import ChatBody
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.protocols.fields import FieldRules
from tests.service.test_chat import PATH

LIMITS = ChatLimits(max_images=32, max_answer_tokens=8192, max_choices=8)
RECORDED = {
    path.stem: json.loads(path.read_text())
    for path in sorted(Path(__file__).with_name("honest_bodies").glob("*.json"))
}
BODIES = [
    pytest.param(body, id=f"{client}-{index}")
    for client, bodies in RECORDED.items()
    for index, body in enumerate(bodies)
]


def image_urls(value):
    """The URLs of all images, in the order of the document."""
    if isinstance(value, dict):
        if value.get("type") == "image_url":
            holder = value["image_url"]
            yield holder if isinstance(holder, str) else holder["url"]
            return
        value = list(value.values())
    for entry in value if isinstance(value, list) else ():
        yield from image_urls(entry)


def without_images(value):
    """The same with every image's URL left out."""
    if isinstance(value, list):
        return [without_images(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "image_url":
        holder = value["image_url"]
        rest = (
            "a url" if isinstance(holder, str) else {n: v for n, v in holder.items() if n != "url"}
        )
        return value | {"image_url": rest}
    return {name: without_images(entry) for name, entry in value.items()}


def is_second_turn(body):
    return any(message["role"] == "assistant" for message in body["messages"])


def test_there_are_enough_of_them_and_of_many_clients():
    bodies = [body for bodies in RECORDED.values() for body in bodies]
    assert len(bodies) >= 60
    assert len(RECORDED) >= 12
    assert sum(map(is_second_turn, bodies)) >= 40
    assert sum(any(image_urls(body)) for body in bodies) >= 40


@pytest.mark.parametrize("body", BODIES)
def test_it_is_taken_apart_and_goes_together_unchanged(body):
    chat = open_chat(json.dumps(body).encode(), CHAT_COMPLETIONS, LIMITS, None, FieldRules())
    assert (
        json.loads(
            ChatBody(
                CHAT_COMPLETIONS,
                chat.fragments,
                [(url.encode(), False) for url in image_urls(body)],
                True,
            ).body(None)
        )
        == body
    )
    assert chat.findings.counts == {}


@pytest.mark.parametrize("client", RECORDED)
def test_it_arrives_unchanged_but_for_the_pixels(service, upstream, client):
    for body in RECORDED[client]:
        response = service.client.post(PATH, json=body)
        assert response.status_code == 200, response.text
        got = json.loads(upstream.bodies[-1])
        assert without_images(got) == without_images(body)
        sent, arrived = list(image_urls(body)), list(image_urls(got))
        assert len(sent) == len(arrived)
        assert not set(sent) & set(arrived)
