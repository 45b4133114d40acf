"""The upstream's client, against a transport without a network."""

import asyncio
import json

import httpx
import pytest

from service.errors import UpstreamError, UpstreamTimeout
from service.forward.completion import Completion
from service.forward.upstream import Upstream
from service.settings import Settings

QUESTION = Completion(prompt="what?", image_url="data:image/png;base64,AA")


def ask(handler, completion=QUESTION, default_model="m"):
    errors = []

    async def scenario():
        transport = httpx.MockTransport(handler)
        client = httpx.AsyncClient(base_url="http://model/v1", transport=transport)
        upstream = Upstream(
            client,
            Settings(upstream_url="http://model/v1", upstream_model=default_model),
            errors.append,
        )
        try:
            return await upstream.complete(completion)
        finally:
            await upstream.close()

    return lambda: asyncio.run(scenario()), errors


def raise_timeout(request):
    raise httpx.ReadTimeout("late", request=request)


def raise_connect(request):
    raise httpx.ConnectError("no", request=request)


@pytest.mark.parametrize(
    ("handler", "error", "reason"),
    [
        (raise_timeout, UpstreamTimeout, "timeout"),
        (raise_connect, UpstreamError, "connection"),
        (lambda _: httpx.Response(429), UpstreamError, "status_429"),
        (lambda _: httpx.Response(302), UpstreamError, "status_302"),
        (lambda _: httpx.Response(200, text="hello"), UpstreamError, "nonsense"),
        (lambda _: httpx.Response(200, json={"choices": []}), UpstreamError, "nonsense"),
        (lambda _: httpx.Response(200, json=[1]), UpstreamError, "nonsense"),
        (
            lambda _: httpx.Response(200, json={"choices": [{"message": {"content": None}}]}),
            UpstreamError,
            "nonsense",
        ),
    ],
)
def test_whatever_goes_wrong_is_an_upstream_error(handler, error, reason):
    run, errors = ask(handler)
    with pytest.raises(error) as raised:
        run()
    assert type(raised.value) is error
    assert errors == [reason]


def test_the_request_is_openais():
    seen = []

    def handler(request):
        seen.append(json.loads(request.content))
        return httpx.Response(200, json={"choices": [{"message": {"content": "hi"}}]})

    answer = ask(handler)[0]()
    assert (answer.text, answer.usage) == ("hi", None)
    assert seen == [
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": QUESTION.image_url}},
                        {"type": "text", "text": "what?"},
                    ],
                }
            ],
            "stream": False,
        }
    ]


def test_only_data_urls_can_be_forwarded():
    with pytest.raises(ValueError, match="data:"):
        Completion(prompt="?", image_url="https://a.b/c.png")


def test_a_stream_ends_before_done_and_breaks_with_an_upstream_error():
    def events(payloads):
        return httpx.Response(200, text="".join(f"data: {payload}\n\n" for payload in payloads))

    async def collect(handler):
        client = httpx.AsyncClient(base_url="http://m/v1", transport=httpx.MockTransport(handler))
        upstream = Upstream(
            client, Settings(upstream_url="http://m/v1", upstream_model="m"), lambda _: None
        )
        stream = await upstream.stream(QUESTION)
        try:
            return [payload async for payload in stream.payloads()]
        finally:
            await stream.close()
            await upstream.close()

    assert asyncio.run(collect(lambda _: events(["a", "b", "[DONE]", "c"]))) == ["a", "b"]
    with pytest.raises(UpstreamError):
        asyncio.run(collect(lambda _: httpx.Response(500)))
