"""The upstream's client, against a transport without a network."""

import asyncio
import json
import math

import httpx
import pytest

from codefend.service.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnavailable,
    UpstreamUnprocessable,
)
from codefend.service.forward.breaker import Breaker, BreakerLimits
from codefend.service.forward.completion import ChatBody, Completion
from codefend.service.forward.upstream import Upstream
from codefend.service.metrics import Metrics
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.settings import Settings

QUESTION = Completion(prompt="what?", image_url=b"data:image/png;base64,AA")


class Noting:
    """A counter of errors that notes their reasons."""

    def __init__(self, errors):
        self._errors = errors

    def labels(self, reason):
        self._errors.append(reason)
        return self

    def inc(self):
        pass


def make_upstream(handler, errors, **settings):
    """An upstream whose network is a function."""
    client = httpx.AsyncClient(base_url="http://model/v1", transport=httpx.MockTransport(handler))
    values = {"upstream_url": "http://model/v1", "upstream_retries": 0} | settings
    metrics = Metrics()
    metrics.upstream_errors = Noting(errors)
    return Upstream(client, Settings(**values), Breaker(BreakerLimits(0)), metrics)


def permit():
    return Breaker.aside(math.inf)


def ask(handler, completion=QUESTION, default_model="m"):
    errors = []

    async def scenario():
        upstream = make_upstream(handler, errors, upstream_model=default_model)
        try:
            return await upstream.complete(completion, permit())
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
        (raise_timeout, UpstreamTimeout, "first_byte_timeout"),
        (raise_connect, UpstreamError, "connect"),
        # Who is busy says when to come back, whoever wrote the request.
        (lambda _: httpx.Response(429), UpstreamBusy, "status_429"),
        (lambda _: httpx.Response(400), UpstreamError, "status_400"),
        (lambda _: httpx.Response(302), UpstreamError, "status_302"),
        (lambda _: httpx.Response(200, text="hello"), UpstreamError, "nonsense"),
        (lambda _: httpx.Response(200, json={"choices": []}), UpstreamError, "nonsense"),
        (lambda _: httpx.Response(200, json=[1]), UpstreamError, "nonsense"),
        (
            lambda _: httpx.Response(200, json={"choices": [{"message": {"content": None}}]}),
            UpstreamError,
            "nonsense",
        ),
        # Half of a surrogate pair: JSON, but nothing that an answer could be written with.
        (
            lambda _: httpx.Response(
                200, content=rb'{"choices":[{"message":{"content":"\ud800"}}]}'
            ),
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
                        {"type": "image_url", "image_url": {"url": QUESTION.image_url.decode()}},
                        {"type": "text", "text": "what?"},
                    ],
                }
            ],
            "stream": False,
        }
    ]


def test_of_usage_only_counts_are_kept():
    usage = {"total_tokens": 7, "details": {"cached": 1, "x": [[]]}, "\ud800": 1, "words": "secret"}
    document = {"choices": [{"message": {"content": "hi"}}], "usage": usage}
    answer = ask(lambda _: httpx.Response(200, content=json.dumps(document).encode()))[0]()
    assert answer.usage == {"total_tokens": 7, "details": {"cached": 1}}


def test_only_data_urls_can_be_forwarded():
    with pytest.raises(ValueError, match="data:"):
        Completion(prompt="?", image_url=b"https://a.b/c.png")


def test_a_stream_ends_before_done_and_breaks_with_an_upstream_error():
    def events(payloads):
        text = "".join(f"data: {payload}\n\n" for payload in payloads)
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})

    async def collect(handler):
        upstream = make_upstream(handler, [], upstream_model="m")
        stream = await upstream.stream(QUESTION, permit())
        try:
            return [payload async for payload in stream.payloads()]
        finally:
            await stream.close()
            await upstream.close()

    a, b = '{"choices": [{"delta": {}}]}', '{"choices": [], "usage": null}'
    assert asyncio.run(collect(lambda _: events([a, b, "[DONE]", "c"]))) == [a, b]
    for lie in ([a, b], [a, "b", "[DONE]"], [a, '{"error": {"message": "secret"}}']):
        with pytest.raises(UpstreamError):
            asyncio.run(collect(lambda _, lie=lie: events(lie)))
    with pytest.raises(UpstreamError):
        asyncio.run(collect(lambda _: httpx.Response(500)))


def relay(handler, method="relay", **settings):
    """Sends a body of a client's own."""
    errors = []

    async def scenario():
        upstream = make_upstream(handler, errors, **settings)
        try:
            if method == "list_models":
                return await upstream.list_models(math.inf)
            return await getattr(upstream, method)(
                ChatBody(CHAT_COMPLETIONS, [b"{}"], [], has_model=True), permit()
            )
        finally:
            await upstream.close()

    return lambda: asyncio.run(scenario()), errors


SECRET = {"error": {"message": "model at /srv/secret", "param": "secret", "code": "secret"}}


@pytest.mark.parametrize("method", ["relay", "relay_stream"])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UpstreamRefused),
        (404, UpstreamNotFound),
        (413, UpstreamTooLarge),
        (415, UpstreamRefused),
        (422, UpstreamUnprocessable),
        (429, UpstreamBusy),
        (503, UpstreamUnavailable),
        # The upstream's quarrel with our key is no affair of the client's.
        (401, UpstreamError),
        (403, UpstreamError),
        (500, UpstreamError),
        (302, UpstreamError),
        (418, UpstreamError),
    ],
)
def test_a_status_becomes_the_error_of_its_class_and_none_of_its_words(method, status, error):
    headers = {"location": "http://secret/"}
    run, errors = relay(lambda _: httpx.Response(status, json=SECRET, headers=headers), method)
    with pytest.raises(UpstreamError) as raised:
        run()
    assert type(raised.value) is error
    assert "secret" not in json.dumps(raised.value.body())
    assert errors == [f"status_{status}"]


def test_the_embedded_models_own_words_are_passed_on():
    said = {"error": {"message": "The messages are over 512 tokens long.", "param": "messages"}}
    run, _ = relay(lambda _: httpx.Response(400, json=said), upstream_url=None)
    with pytest.raises(UpstreamRefused) as raised:
        run()
    assert raised.value.public_message == "The messages are over 512 tokens long."
    assert raised.value.param == "messages"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.2", 1), ("-5", 1), ("9999", 600), ("inf", 5), ("nan", 5), ("so", 5), (None, 5)],
)
def test_the_upstreams_retry_after_is_passed_on_within_reason(header, seconds):
    headers = {} if header is None else {"retry-after": header}
    run, _ = relay(lambda _: httpx.Response(429, headers=headers))
    with pytest.raises(UpstreamBusy) as raised:
        run()
    assert raised.value.headers() == {"Retry-After": str(seconds)}


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("relay", b"hello"),
        ("relay", b"[1]"),
        ("relay", b'{"choices": []}'),
        ("relay", b"\xff"),
        ("relay", b"[" * 100_000),
        ("relay", b'{"choices": [1], "x": "' + b"x" * 2000 + b'"}'),
        ("relay_stream", b'{"choices": [1]}'),
        ("list_models", b'{"models": []}'),
    ],
)
def test_an_answer_that_lies_is_an_upstream_error(method, content):
    run, errors = relay(
        lambda _: httpx.Response(200, content=content), method, max_answer_bytes=1500
    )
    with pytest.raises(UpstreamError) as raised:
        run()
    assert type(raised.value) is UpstreamError
    assert errors == ["too_long" if len(content) > 1500 else "nonsense"]


def test_an_answer_is_returned_as_it_was_written():
    answer = b'{ "choices":[ {"x": 1.50} ] }\n'
    assert relay(lambda _: httpx.Response(200, content=answer))[0]() == (answer, [])
