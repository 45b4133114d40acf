"""The door over a real socket, in front of an application of a few lines."""

import asyncio
import json
import logging
import socket
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import uvicorn
import uvloop

from codefend.service.door.connections import ConnectionRegister, DoorLimits
from codefend.service.door.protocol import make_config, serving

LIMITS = DoorLimits(head_timeout_s=0.3, linger_s=0.3, unread_timeout_s=0.5)
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# What a smuggled request would ask for.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


class Application:
    """Answers with the body it got, refuses without reading, or answers much."""

    def __init__(self):
        self.paths = []
        self.headers = []
        self.sent_at_s = None
        self.left = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        self.headers = scope["headers"]
        body, status = b"ok", 200
        if scope["path"] == "/echo":
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.left.set()
                    return
                body, more = body + message["body"], message["more_body"]
        elif scope["path"] == "/refused":
            body, status = b"no", 401
        elif scope["path"] == "/much":
            body = b"x" * (32 << 20)
        elif scope["path"] == "/slow":
            await self.release.wait()
        length = str(len(body)).encode()
        start = {"type": "http.response.start", "status": status}
        await send(start | {"headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})
        self.sent_at_s = time.monotonic()


class Door:
    def __init__(self, connections, application, port):
        self.connections = connections
        self.application = application
        self.port = port
        self.refusals = []
        self._writers = []

    async def open(self):
        # So small a limit that what is not read stays in the network.
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1024)
        self._writers.append(writer)
        return reader, writer

    async def close(self):
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def ask(self, *parts):
        """Sends, and reads to the connection's end, which must come."""
        reader, writer = await self.open()
        answer = asyncio.create_task(read_all(reader))
        with suppress(OSError):  # it may be closed in the middle
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            return await answer


async def read_all(reader):
    pieces = []
    with suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


@asynccontextmanager
async def door(limits=LIMITS):
    refusals = []
    connections, application = ConnectionRegister(limits, refusals.append), Application()
    config = make_config(application, connections, lifespan="off", timeout_graceful_shutdown=1)
    listener = socket.create_server(("127.0.0.1", 0))
    async with serving(config, listener):
        opened = Door(connections, application, listener.getsockname()[1])
        opened.refusals = refusals
        try:
            yield opened
        finally:
            await opened.close()


def behind(test, limits=LIMITS):
    """Runs a coroutine function that takes a door, on the event loop that serves."""

    async def run():
        async with door(limits) as opened:
            return await test(opened)

    return uvloop.run(run())


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer else None


def statuses(answer):
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def ask(*parts, limits=LIMITS):
    """The status, and what the application saw."""

    async def test(opened):
        answer = await opened.ask(*parts)
        return status_of(answer), opened.application.paths, answer, opened.refusals

    return behind(test, limits)


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ([GET + b"a:b\r\n" * 101 + b"\r\n"], 431, "head_too_large"),
        ([GET, b"a: b\r\n" * 60, b"a: b\r\n" * 60], 431, "head_too_large"),
        ([GET + b"a: " + b"x" * (1 << 16)], 431, "head_too_large"),
        ([GET + b"x" * (1 << 16)], 431, "head_too_large"),
        ([b"\r\n" * (1 << 16)], 431, "head_too_large"),
        ([b"GET /" + b"x" * (1 << 14) + b" HTTP/1.1\r\nHost: a\r\n\r\n"], 414, "target_too_long"),
        ([b"GET /?" + b"x" * (1 << 20)], 414, "target_too_long"),
        ([b"G"], 408, "head_timeout"),
        ([GET], 408, "head_timeout"),
        ([b"NONSENSE\r\n\r\n"], 400, "malformed_request"),
        ([b"\x16\x03\x01\x02\x00\x01\x00"], 400, "malformed_request"),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 400, "malformed_request"),
        ([b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"], 400, "malformed_request"),
        ([b"GET /healthz HTTP/1.1\r\n\r\n"], 400, "malformed_request"),
        ([b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"], 400, "malformed_request"),
    ],
)
def test_a_head_beyond_its_bounds_is_answered_and_the_connection_closed(parts, status, code):
    got, paths, answer, refusals = ask(*parts)
    assert got == status
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == code
    assert b"connection: close" in answer
    assert refusals == [code]
    assert paths == []


def test_a_connection_that_says_nothing_is_closed_without_a_word():
    started_s = time.monotonic()
    status, _, answer, refusals = ask()
    assert (status, answer, refusals) == (None, b"", ["silent"])
    assert 0.25 <= time.monotonic() - started_s < 3


def test_a_dripping_head_ends_when_its_time_is_over_however_steadily_it_drips():
    async def test(opened):
        reader, writer = await opened.open()
        answer = asyncio.create_task(reader.read())
        started_s = time.monotonic()
        writer.write(GET)
        while not answer.done():
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.05)
        assert status_of(await answer) == 408
        assert time.monotonic() - started_s < 2

    behind(test)


def test_the_time_of_a_second_head_counts_from_its_first_byte():
    async def test(opened):
        reader, writer = await opened.open()
        writer.write(GET + b"\r\n")
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.5)  # idle for longer than a head may take
        writer.write(GET)
        await asyncio.sleep(0.1)
        writer.write(b"\r\n")
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
        writer.write(GET)
        assert status_of(await reader.read()) == 408

    behind(test)


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 16])
def test_however_a_request_is_cut_it_is_read_the_same(size):
    body = bytes(range(256)) * 300
    chunks = b"".join(
        b"%x;n=v\r\n%b\r\n" % (len(piece), piece)
        for piece in (body[begin : begin + 999] for begin in range(0, len(body), 999))
    )
    sent = CHUNKED + chunks + b"0\r\nX-Trailer: 1\r\n\r\n" + GET + b"Connection: close\r\n\r\n"

    async def test(opened):
        reader, writer = await opened.open()
        for begin in range(0, len(sent), size):
            writer.write(sent[begin : begin + size])
            if size < 100:
                await writer.drain()
        answer = await reader.read()
        assert statuses(answer) == [200, 200]
        assert body in answer
        assert (b"x-trailer", b"1") not in opened.application.headers

    behind(test, replace(LIMITS, head_timeout_s=30))


@pytest.mark.parametrize(
    "rest",
    [
        [b"0\r\n" + b"a:b\r\n" * 120],
        [b"0\r\na: ", *[b"x" * 8192] * 4],
        [b"1;" + b"x" * 65536],
        [b"1\r\nx\r\n" * 20_000],
        [*[b"1\r\nx\r\n" * 1000] * 20],
    ],
    ids=["trailers", "long trailer", "extension", "tiny chunks at once", "tiny chunks"],
)
def test_what_is_around_a_chunked_body_is_bounded(rest):
    status, _, _, refusals = ask(CHUNKED, *rest)
    assert status == 431
    assert refusals == ["head_too_large"]


def test_small_chunks_of_an_honest_client_pass():
    lines = b"".join(b"3c\r\n" + b"x" * 60 + b"\r\n" for _ in range(20_000))
    status, _, answer, _ = ask(CHUNKED + lines + b"0\r\n\r\n", GET + b"Connection: close\r\n\r\n")
    assert status == 200
    assert b"x" * 1_200_000 in answer


def test_who_breaks_off_within_a_body_is_told_and_so_is_the_application():
    async def test(opened):
        assert status_of(await opened.ask(CHUNKED + b"3\r\nabc\r\n", b"nonsense\r\n")) == 400
        async with asyncio.timeout(1):
            await opened.application.left.wait()

    behind(test)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: +3\r\n\r\nabc",
        b"Content-Length: 3, 3\r\n\r\nabc",
        b"Content-Length : 3\r\n\r\nabc",
        b"Content-Length: 3\n\r\nabc",
        b"A: b\r\n Content-Length: 3\r\n\r\n",
        b"A: b\rContent-Length: 3\r\n\r\n",
        b"A: b\x00c\r\n\r\n",
        b"Host: b\r\n\r\n",
        b"Content-Type: a\r\nContent-Type: b\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3;x\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_what_two_readers_could_take_for_two_requests_is_refused(head):
    status, paths, _, _ = ask(POST + head + SMUGGLED)
    assert status == 400
    assert "/smuggled" not in paths


async def send_without_end(writer, data):
    for _ in range(100):
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "headers", [b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_behind_an_answer_that_did_not_wait_for_its_body_nothing_is_parsed(headers):
    async def test(opened):
        reader, writer = await opened.open()
        writer.write(b"POST /refused HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
        answer = asyncio.create_task(reader.read())
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionError):
            await send_without_end(writer, SMUGGLED * 1000)
        assert statuses(await answer) == [401]
        assert b"connection: close" in await answer
        assert opened.application.paths == ["/refused"]
        assert opened.connections.num_open == 0

    behind(test)


def test_an_answer_whose_body_was_read_leaves_the_connection_open():
    sent = POST + b"Content-Length: 3\r\n\r\nabc"
    _, paths, answer, _ = ask(sent, sent, GET + b"Connection: close\r\n\r\n")
    assert statuses(answer) == [200, 200, 200]
    assert paths == ["/echo", "/echo", "/healthz"]


def test_expectations_are_met():
    async def test(opened):
        reader, writer = await opened.open()
        writer.write(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.read(1000)).endswith(b"abc")

    behind(test)


def test_requests_that_wait_behind_another_are_bounded_and_answered_in_turn():
    async def test(opened):
        reader, writer = await opened.open()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + (GET + b"\r\n") * 2000)
        await asyncio.sleep(0.1)
        opened.application.release.set()
        assert statuses(await reader.read()) == [200] * (1 + LIMITS.max_pipelined)

    behind(test)


def test_nonsense_behind_a_request_does_not_cost_it_its_answer():
    async def test(opened):
        reader, writer = await opened.open()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nNONSENSE\r\n\r\n")
        await asyncio.sleep(0.1)
        opened.application.release.set()
        answer = await reader.read()
        assert statuses(answer) == [200]
        assert b"connection: close" in answer

    behind(test)


def test_who_leaves_is_noticed_though_another_request_waits_behind():
    async def test(opened):
        _, writer = await opened.open()
        writer.write(CHUNKED + b"3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        writer.transport.abort()
        async with asyncio.timeout(1):
            await opened.application.left.wait()

    behind(test)


@pytest.mark.parametrize("offer", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
)
@pytest.mark.parametrize("is_cut", [False, True])
def test_an_offer_of_another_protocol_is_passed_over(offer, body, is_cut):
    # Read as what httptools makes of it, the body would be the next request.
    offered = (
        b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\nUpgrade: " + offer + b"\r\n"
    )
    sent = POST + offered + body
    parts = [sent[:60], sent[60:-5], sent[-5:]] if is_cut else [sent]
    status, paths, answer, _ = ask(*parts, GET + b"Connection: close\r\n\r\n")
    assert status == 200
    assert b"\r\n\r\nabcHTTP/1.1 200" in answer
    assert paths == ["/echo", "/healthz"]


def test_an_answer_that_nobody_reads_is_sent_when_it_is_taken():
    async def test(opened):
        reader, writer = await opened.open()
        writer.write(b"GET /much HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(0.3)
        assert opened.application.sent_at_s is None
        read_at_s = time.monotonic()
        answer = await reader.read()
        assert len(answer) > 32 << 20
        await asyncio.sleep(0.05)
        assert opened.application.sent_at_s > read_at_s

    behind(test, replace(LIMITS, unread_timeout_s=30))


def test_a_connection_whose_answer_nobody_reads_ends():
    async def test(opened):
        reader, writer = await opened.open()
        writer.write(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(1.5)
        assert opened.application.sent_at_s is not None
        assert opened.refusals == ["unread_answer"]
        assert opened.connections.num_open == 0
        assert len(await reader.read()) < 32 << 20

    behind(test)


def test_silent_connections_make_room_and_probes_are_answered(caplog):
    limits = replace(LIMITS, max_connections=20, head_timeout_s=30)

    async def test(opened):
        silent = [await opened.open() for _ in range(100)]
        for _ in range(20):
            assert status_of(await opened.ask(GET + b"Connection: close\r\n\r\n")) == 200
        assert opened.connections.num_open <= 20
        assert opened.refusals.count("evicted") >= 80
        for _, writer in silent:
            writer.close()

    with caplog.at_level(logging.WARNING):
        behind(test, limits)
    assert len([record for record in caplog.records if "door" in record.message]) == 1


def test_where_all_connections_are_at_work_probes_alone_are_answered():
    limits = replace(LIMITS, max_connections=2, head_timeout_s=30)

    async def test(opened):
        slow = [await opened.open() for _ in range(2)]
        for _, writer in slow:
            writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        probed = await opened.ask(GET + b"\r\n")
        assert status_of(probed) == 200
        assert b"connection: close" in probed
        refused = await opened.ask(POST + b"Content-Length: 0\r\n\r\n")
        assert status_of(refused) == 503
        assert b"Retry-After: " in refused
        opened.application.release.set()
        for reader, writer in slow:
            assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
            writer.close()
        await asyncio.sleep(0.1)
        last = POST + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        assert status_of(await opened.ask(last)) == 200

    behind(test, limits)


@pytest.mark.alone
def test_no_piece_of_a_hostile_stream_holds_the_event_loop():
    hostile = [
        GET + b"a:b\r\n" * 50_000,
        CHUNKED + b"1\r\nx\r\n" * 40_000,
        (GET + b"\r\n") * 8_000,
        CHUNKED + b"0\r\n" + b"a:b\r\n" * 50_000,
        b"\r\n" * 128_000,
    ]

    async def test(opened):
        loop = asyncio.get_running_loop()
        protocol = make_protocol(opened)
        longest_s = 0.0
        for data in hostile:
            connection = protocol()
            connection.connection_made(Transport())
            started_s = time.perf_counter()
            connection.data_received(data)
            longest_s = max(longest_s, time.perf_counter() - started_s)
            connection.connection_lost(None)
        assert loop.is_running()
        assert longest_s < 0.05

    behind(test)


def make_protocol(opened):
    config = make_config(opened.application, opened.connections, lifespan="off")
    config.load()
    state = uvicorn.server.ServerState()
    return lambda: config.http_protocol_class(config, state, {})


class Transport(asyncio.Transport):
    def get_extra_info(self, name, default=None):
        return default

    def write(self, data):
        pass

    def write_eof(self):
        pass

    def is_closing(self):
        return False

    def close(self):
        pass

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass
