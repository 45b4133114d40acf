"""Upstreams over HTTP and in batches: what is sent, what is counted, and after a kill."""

import json

import httpx
import numpy as np
import pytest

from codefend.lab.errors import LabError
from codefend.lab.prompts.upstreams import HttpUpstream, LocalUpstream, Meter, Request
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.generate import generate

IMAGE = np.full((8, 8, 3), 7, np.uint8)


def requests():
    return [Request(IMAGE, "silver?", is_caption=True), Request(IMAGE, "what?", is_caption=False)]


def test_local_models_are_asked_as_everywhere_else(victim):
    meter = Meter()
    found = dict(LocalUpstream(victim).answers(requests(), meter))
    caption = generate(victim, [IMAGE], [["silver?"]], max_new_tokens=48)
    answer = generate(victim, [IMAGE], [["what?"]], max_new_tokens=8)
    assert [found[0], found[1]] == [caption[0][0], answer[0][0]]
    assert meter.calls == 2


def over(handler):
    http = httpx.Client(base_url="http://upstream", transport=httpx.MockTransport(handler))
    return HttpUpstream(ServiceClient(http), "some-model", concurrency=2)


def completion(text, usage=True):
    body = {"choices": [{"message": {"content": text}}]}
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 3}
    return body


def test_a_call_is_a_chat_completion_and_is_counted():
    seen = []

    def handler(request):
        seen.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=completion(" a cat "))

    meter = Meter(price_in=2.0, price_out=10.0)
    found = dict(over(handler).answers(requests(), meter))
    assert found == {0: "a cat", 1: "a cat"}
    assert (meter.calls, meter.tokens_in, meter.tokens_out) == (2, 200, 6)
    assert meter.cost == pytest.approx((200 * 2 + 6 * 10) / 1e6)
    assert "2 calls, 206 tokens, cost 0.0005" in str(meter)
    by_limit = {body["max_tokens"]: body for path, body in seen if path == "/v1/chat/completions"}
    image, text = by_limit[48]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "silver?"}
    assert by_limit[8]["model"] == "some-model"
    assert by_limit[8]["temperature"] == 0


def test_what_is_no_completion_is_said_so():
    with pytest.raises(LabError, match="no chat completion"):
        list(over(lambda _: httpx.Response(200, json={"choices": []})).answers(requests(), Meter()))
