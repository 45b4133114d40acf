"""Upstreams that lie, stall or break off, over TCP: each is told apart, and none is repeated."""

import asyncio
import gzip
import json
import logging
import math
from contextlib import asynccontextmanager

import pytest

from codefend.service.errors import UpstreamBusy, UpstreamError, UpstreamTimeout
from codefend.service.forward.completion import ChatBody, Completion
from codefend.service.forward.sse import StreamSplicer
from codefend.service.forward.upstream import make_upstream
from codefend.service.metrics import Metrics
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.settings import Settings
from tests.service.raw_upstream import (
    DONE,
    GOOD,
    GOOD_STREAM,
    SECRET,
    STREAM_HEAD,
    RawUpstream,
    chunked,
    event,
    head,
    listening,
    then_close,
    then_hang,
    until,
    whole,
    without_end,
    words,
)

EMPTY = ChatBody(CHAT_COMPLETIONS, [b"{}"], [], has_model=True)
QUESTION = Completion(prompt="what?", image_url=b"data:image/png;base64,AA")
# Patient where patience is not what is tested: a loaded machine may take its time.
PATIENCE = {
    "upstream_model": "m",
    "upstream_retries": 0,
    "upstream_first_byte_timeout_s": 30,
    "upstream_read_timeout_s": 30,
}
HASTE = {"upstream_first_byte_timeout_s": 0.3, "upstream_read_timeout_s": 0.3}


class Scene:
    def __init__(self, raw, upstream, metrics):
        self.raw = raw
        self.upstream = upstream
        self._metrics = metrics

    async def ask(self, method):
        """Asks in one of the four ways; returns all that a client would get to see."""
        permit = self.upstream.breaker.enter("", math.inf)
        try:
            match method:
                case "complete":
                    return [(await self.upstream.complete(QUESTION, permit)).text]
                case "relay":
                    return [(await self.upstream.relay(EMPTY, permit))[0]]
                case "stream":
                    stream = await self.upstream.stream(QUESTION, permit)
                    return await collect(stream, stream.payloads())
                case "relay_stream":
                    stream = await self.upstream.relay_stream(EMPTY, permit)
                    passed = stream.passed_through(
                        StreamSplicer(CHAT_COMPLETIONS.make_reader(), lambda: b"{}")
                    )
                    return await collect(stream, passed)
        finally:
            permit.leave()

    def errors(self):
        """Reason to how often."""
        samples = next(iter(self._metrics.upstream_errors.collect())).samples
        return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total")}

    def metric(self, name):
        return self._metrics.registry.get_sample_value(name)


async def collect(stream, events):
    try:
        return [item async for item in events]
    finally:
        await stream.close()


@asynccontextmanager
async def scene(script, port=None, **settings):
    async with listening(RawUpstream()) as raw:
        raw.script = script
        url = raw.url if port is None else f"http://127.0.0.1:{port}/v1"
        values = {"upstream_url": url, "upstream_breaker_failures": 0} | PATIENCE | settings
        metrics = Metrics()
        upstream = make_upstream(Settings(**values), None, metrics, lambda: False)
        try:
            yield Scene(raw, upstream, metrics)
        finally:
            await upstream.close()


async def expect(script, method, error, reason, **settings):
    async with scene(script, **settings) as play:
        with pytest.raises(UpstreamError) as raised:
            await play.ask(method)
        assert type(raised.value) is error
        assert SECRET not in json.dumps(raised.value.body()) + str(raised.value.headers())
        assert play.errors() == {reason: 1}


def body(**fields):
    return whole({"choices": [{"message": {"role": "assistant", "content": SECRET}}]} | fields)


BOTH = {
    "nothing at all": (then_close(), "hung_up"),
    "not HTTP": (then_close(b"220 smtp ready " + SECRET.encode() + b"\r\n\r\n"), "protocol"),
    "half a head": (then_close(head()[:-10]), "hung_up"),
    "a head without an end": (without_end(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 9), "protocol"),
    "a redirect": (whole(b"", 302, "text/html", f"Location: /{SECRET}"), "status_302"),
    "a redirect that keeps the method": (
        whole(b"", 307, "text/html", f"Location: /{SECRET}"),
        "status_307",
    ),
    "an error with words": (whole({"error": SECRET}, 500), "status_500"),
    "an error without an end": (
        without_end(head(500, "text/html", 1 << 40), SECRET.encode() * 999),
        "status_500",
    ),
    "a gateway's page": (whole(f"<html>{SECRET}".encode(), 502, "text/html"), "status_502"),
    "an upgrade": (head(101, "text/html", None, "Upgrade: x", "Connection: upgrade"), "protocol"),
    "HTML with 200": (whole(f"<html>{SECRET}</html>".encode(), 200, "text/html"), "nonsense"),
    "nothing with 204": (head(204, "text/plain", 0), "nonsense"),
}
WHOLE = {
    "no JSON": (whole(SECRET.encode()), "nonsense"),
    "a list": (whole([SECRET]), "nonsense"),
    "no choices": (body(choices=[]), "nonsense"),
    "choices that are text": (body(choices=SECRET), "nonsense"),
    "choices that are an object": (body(choices={"0": SECRET}), "nonsense"),
    "a choice that is text": (body(choices=[SECRET]), "nonsense"),
    "no UTF-8": (whole(b'{"choices": [{"message": {"content": "\xff"}}]}'), "nonsense"),
    "UTF-16": (whole(body().partition(b"\r\n\r\n")[2].decode().encode("utf-16-le")), "nonsense"),
    "NaN": (whole(b'{"choices": [{"message": {"content": "a"}}], "x": NaN}'), "nonsense"),
    "deep": (whole(b"[" * 100_000), "nonsense"),
    "compressed": (
        whole(
            gzip.compress(body().partition(b"\r\n\r\n")[2]), 200, "a/b", "Content-Encoding: gzip"
        ),
        "encoded",
    ),
    "a bomb": (
        whole(gzip.compress(b"0" * (64 << 20)), 200, "application/json", "Content-Encoding: gzip"),
        "encoded",
    ),
    "shorter than it says": (then_close(body()[:-10]), "cut"),
    "a chunk that breaks off": (
        then_close(head(200, "a/b", None, "Transfer-Encoding: chunked") + b"fff\r\n{"),
        "cut",
    ),
    "without an end": (without_end(head(), b" " * 65536), "too_long"),
}
STREAMED = {
    "JSON instead": (whole({"choices": [{"message": {"content": SECRET}}]}), "nonsense"),
    "cut between events": (then_close(STREAM_HEAD + chunked(words("a"))), "cut"),
    "over between events": (STREAM_HEAD + chunked(words("a")) + chunked(b""), "cut"),
    "cut within an event": (then_close(STREAM_HEAD + chunked(words("a", "b")[:-20])), "cut"),
    "over within an event": (STREAM_HEAD + chunked(words("a", "b")[:-20]) + chunked(b""), "cut"),
    "nothing": (STREAM_HEAD + chunked(b""), "cut"),
    "an error": (
        STREAM_HEAD + chunked(event({"error": {"message": SECRET}}) + DONE),
        "error_event",
    ),
    "an error and its cause": (
        STREAM_HEAD + chunked(words("a") + event({"error": SECRET, "choices": []}) + DONE),
        "error_event",
    ),
    "text": (STREAM_HEAD + chunked(event(SECRET) + DONE), "nonsense"),
    "a number": (STREAM_HEAD + chunked(event("7") + DONE), "nonsense"),
    "choices that are text": (
        STREAM_HEAD + chunked(event({"choices": SECRET}) + DONE),
        "nonsense",
    ),
    "no UTF-8": (STREAM_HEAD + chunked(b'data: {"choices": [], "x": "\xff"}\n\n'), "nonsense"),
    "an event behind a carriage return": (
        STREAM_HEAD + chunked(f': a\rdata: {{"error": "{SECRET}"}}\n\n'.encode() + DONE),
        "nonsense",
    ),
    "a line without an end": (
        without_end(STREAM_HEAD + chunked(b"data: "), chunked(b"x" * 65536)),
        "nonsense",
    ),
    "compressed": (
        head(200, "text/event-stream", None, "Content-Encoding: gzip") + b"\x1f\x8b",
        "encoded",
    ),
    "without an end": (
        without_end(STREAM_HEAD + chunked(words("a")), chunked(b": ping\n\n" * 9999)),
        "too_long",
    ),
}


def table(*parts):
    rows = [(name, method, *row) for methods, lies in parts for name, row in lies.items()
            for method in methods]  # fmt: skip
    return pytest.mark.parametrize(
        ("method", "script", "reason"),
        [row[1:] for row in rows],
        ids=[f"{name}, {method}" for name, method, *_ in rows],
    )


ALL = ("complete", "relay", "stream", "relay_stream")


@table((ALL, BOTH), (ALL[:2], WHOLE), (ALL[2:], STREAMED))
def test_a_lie_is_an_error_of_its_kind_and_quotes_nothing(method, script, reason, caplog):
    with caplog.at_level(logging.DEBUG, logger="service"):
        settings = {"max_answer_bytes": 1 << 20, "max_stream_bytes": 8 << 20}
        asyncio.run(expect(script, method, UpstreamError, reason, **settings))
    for record in caplog.records:
        getattr(record, "fields", {}).pop("said", None)  # the operator's own: a line of it
    assert SECRET not in caplog.text + str([record.__dict__ for record in caplog.records])


async def drip(writer, _):
    """A byte now and then, always before the time for a single one is over."""
    while not writer.is_closing():
        writer.write(b"X")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_status(writer, _):
    while not writer.is_closing():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_pings(writer, _):
    writer.write(STREAM_HEAD)
    while not writer.is_closing():
        writer.write(chunked(b": ping\n\n"))
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("script", "method", "reason", "settings"),
    [
        (then_hang(), "relay", "first_byte_timeout", HASTE),
        (then_hang(), "relay_stream", "first_byte_timeout", HASTE),
        (drip, "relay", "first_byte_timeout", HASTE),
        (drip_status, "relay", "first_byte_timeout", HASTE),
        (then_hang(head()), "relay", "read_timeout", HASTE),
        (then_hang(head(), b'{"choices"'), "complete", "read_timeout", HASTE),
        (then_hang(STREAM_HEAD), "stream", "read_timeout", HASTE),
        (then_hang(STREAM_HEAD, chunked(words("a"))), "relay_stream", "read_timeout", HASTE),
        (drip_pings, "relay_stream", "stream_timeout", {"upstream_stream_timeout_s": 0.5}),
        (drip_pings, "stream", "stream_timeout", {"upstream_stream_timeout_s": 0.5}),
    ],
)
def test_every_phase_has_a_time_of_its_own(script, method, reason, settings):
    asyncio.run(expect(script, method, UpstreamTimeout, reason, **settings))


def test_nobody_listens():
    async def play():
        async with listening() as gone:
            port = gone.port
        async with scene(GOOD, port) as alone:
            for method in ALL:
                with pytest.raises(UpstreamError):
                    await alone.ask(method)
            assert alone.errors() == {"connect": 4}

    asyncio.run(play())


def test_an_upstream_that_takes_nothing_in_times_out_while_it_is_sent_to():
    async def play():
        connections = []

        async def deaf(reader, writer):
            writer.transport.pause_reading()
            connections.append(writer)

        server = await asyncio.start_server(deaf, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with scene(GOOD, port, upstream_write_timeout_s=0.5) as alone:
            permit = alone.upstream.breaker.enter("", math.inf)
            with pytest.raises(UpstreamTimeout):
                await alone.upstream.relay(
                    ChatBody(CHAT_COMPLETIONS, [b"x" * (64 << 20)], [], True), permit
                )
            assert alone.errors() == {"write_timeout": 1}
        server.close()
        connections[0].close()

    asyncio.run(play())


def test_too_few_connections_are_our_own_fault():
    async def play():
        settings = {"upstream_max_connections": 1, "upstream_pool_timeout_s": 0.2}
        async with scene(then_hang(), **settings) as play:
            first = asyncio.ensure_future(play.ask("relay"))
            await until(lambda: play.raw.requests)
            with pytest.raises(UpstreamBusy) as raised:
                await play.ask("relay")
            assert raised.value.headers()["Retry-After"]
            assert play.errors() == {"pool_timeout": 1}
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    asyncio.run(play())


@pytest.mark.parametrize("method", ALL)
def test_one_connection_serves_many_requests(method):
    async def play():
        async with scene(GOOD_STREAM if "stream" in method else GOOD) as play:
            for _ in range(20):
                await play.ask(method)
            assert (len(play.raw.requests), play.raw.num_connections) == (20, 1)

    asyncio.run(play())


def test_refusals_and_what_comes_late_after_done_cost_no_connection():
    async def late_end(writer, _):
        writer.write(STREAM_HEAD + chunked(words("a", reason="stop") + DONE))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(chunked(b""))

    async def play():
        async with scene(whole({"error": SECRET}, 400)) as play:
            for _ in range(5):
                with pytest.raises(UpstreamError):
                    await play.ask("relay")
            play.raw.script = late_end
            for _ in range(5):
                await play.ask("relay_stream")
            assert (len(play.raw.requests), play.raw.num_connections) == (10, 1)

    asyncio.run(play())


def test_cookies_are_not_kept():
    async def play():
        async with scene(whole({"choices": [{}]}, 200, "a/b", f"Set-Cookie: a={SECRET}")) as play:
            for _ in range(2):
                await play.ask("relay")
            assert not any("cookie" in headers for _, headers, _ in play.raw.requests)

    asyncio.run(play())


def test_a_connection_is_given_up_before_the_upstream_would():
    async def play():
        async with scene(GOOD, upstream_keepalive_s=0) as play:
            for _ in range(3):
                await play.ask("relay")
                await asyncio.sleep(0.01)
            assert play.raw.num_connections == 3

    asyncio.run(play())


def test_a_stream_that_is_done_is_not_waited_for():
    async def play():
        script = then_hang(STREAM_HEAD + chunked(words("a", reason="stop") + DONE))
        async with scene(script) as play:
            for method in ("stream", "relay_stream"):
                assert await play.ask(method)
            assert play.errors() == {}

    asyncio.run(play())


def test_a_slow_reader_bounds_what_is_taken_from_the_upstream():
    """Nobody reads on after the first event: the upstream can send what fits into sockets."""
    piece, num_sent = chunked(words("x" * 60_000)), 0

    async def pour(writer, _):
        nonlocal num_sent
        writer.write(STREAM_HEAD)
        while num_sent < 10_000:
            writer.write(piece)
            await writer.drain()
            num_sent += 1

    async def play():
        async with scene(pour) as play:
            permit = play.upstream.breaker.enter("", math.inf)
            stream = await play.upstream.relay_stream(EMPTY, permit)
            passed = stream.passed_through(
                StreamSplicer(CHAT_COMPLETIONS.make_reader(), lambda: b"{}")
            )
            assert await anext(passed)
            before = -1
            while num_sent != before:
                before = num_sent
                await asyncio.sleep(0.3)
            assert 0 < num_sent < 1000
            assert await anext(passed)
            await passed.aclose()
            await stream.close()

    asyncio.run(play())


def test_a_question_is_sent_again_only_if_no_connection_came_about():
    async def play():
        async with listening() as gone:
            port = gone.port
        async with scene(GOOD, port, upstream_retries=3) as alone:
            with pytest.raises(UpstreamError):
                await alone.ask("relay")
            assert alone.errors() == {"connect": 4}
        for script, reason in (
            (then_close(), "hung_up"),
            (whole({}, 500), "status_500"),
            (whole({}, 503), "status_503"),
        ):
            async with scene(script, upstream_retries=3) as play:
                with pytest.raises(UpstreamError):
                    await play.ask("relay")
                assert (len(play.raw.requests), play.errors()) == (1, {reason: 1})

    asyncio.run(play())


def test_an_upstream_that_comes_up_between_two_tries_is_asked_once():
    async def play():
        async with listening() as gone:
            port = gone.port
        async with scene(GOOD, port, upstream_retries=10) as alone:
            asking = asyncio.ensure_future(alone.ask("complete"))
            await until(alone.errors)
            async with listening(port=port) as risen:
                assert await asking == ["a red car"]
                assert len(risen.requests) == 1
            retried = 'codefend_upstream_retries_total{reason="connect"}'
            assert retried.encode() in alone._metrics.exposition()

    asyncio.run(play())


def test_the_list_of_models_is_asked_for_again():
    async def play():
        async def second_time(writer, _):
            answers = [whole({}, 503), whole({"data": [{"id": "m"}]})]
            writer.write(answers[len(play.raw.requests) - 1])

        async with scene(second_time, upstream_retries=1) as play:
            assert json.loads(await play.upstream.list_models(math.inf))["data"]
            assert play.errors() == {"status_503": 1}

    asyncio.run(play())


def test_nothing_is_sent_again_that_would_come_too_late():
    async def play():
        async with listening() as gone:
            port = gone.port
        async with scene(GOOD, port, upstream_retries=10) as alone:
            permit = alone.upstream.breaker.enter("", 0.0)
            with pytest.raises(UpstreamError):
                await alone.upstream.relay(EMPTY, permit)
            assert alone.errors() == {"connect": 1}

    asyncio.run(play())
