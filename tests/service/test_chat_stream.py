"""Streams of a chat: chunk by chunk, no faster than they are read, and ended clearly or cleanly."""

import json
import select
import socket
import threading

import pytest

from tests.service.pictures import png
from tests.service.test_chat import PATH, chat, image_part, text_part, user

WAIT_S = 60


def chunk(content=None, reason=None, **fields):
    delta = {} if content is None else {"role": "assistant", "content": content}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    common = {"id": "c1", "object": "chat.completion.chunk", "created": 3, "model": "m"}
    return common | {"choices": [choice]} | fields


def event(payload):
    return f"data: {payload if isinstance(payload, str) else json.dumps(payload)}\n\n".encode()


ANSWER = [event(p) for p in (chunk("a"), chunk(" red"), chunk(" car"), chunk(reason="stop"))]
DONE = event("[DONE]")


def write_all(*events):
    """A reply that writes events at once, and then closes the connection."""

    def reply(handler, _):
        handler.begin_stream()
        handler.wfile.write(b"".join(events))

    return reply


def stream(service, **fields):
    body = chat(user(text_part(), image_part(png())), stream=True, **fields)
    return service.client.stream("POST", PATH, json=body)


def events_of(response):
    return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def test_a_stream_is_the_upstreams_and_its_last_chunk_tells(service, upstream):
    upstream.reply = write_all(*ANSWER, DONE)
    options = {"include_usage": True}
    with stream(service, stream_options=options, codefend={"return_image": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
    sent = [part.decode().removeprefix("data: ").strip() for part in (*ANSWER, DONE)]
    assert events[:-2] == sent[:-2]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    told = last.pop("codefend")
    assert last == chunk(reason="stop")
    assert told["images"][0]["purified_image"].startswith("data:image/png;base64,")
    assert told["timings_ms"]["forward"] > 0
    assert json.loads(upstream.bodies[-1])["stream_options"] == options


def test_the_usage_is_told_in_the_last_chunk_whatever_choices_stand_beside_it(service, upstream):
    """LiteLLM's proxy writes an empty choice there; readers look for the usage in the last one."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    for last in (chunk(usage=usage), chunk(usage=usage) | {"choices": []}):
        upstream.reply = write_all(*ANSWER, event(last), DONE)
        with stream(service, stream_options={"include_usage": True}) as response:
            *_, told, done = events_of(response)
        told = json.loads(told)
        assert told.pop("codefend")["images"]
        assert (told, done) == (last, "[DONE]")


def test_each_chunk_arrives_before_the_next_is_sent(service, upstream):
    arrived = threading.Semaphore(0)

    def reply(handler, _):
        handler.begin_stream()
        for part in ANSWER[:3]:
            handler.wfile.write(part)
            assert arrived.acquire(timeout=WAIT_S)
        handler.wfile.write(ANSWER[3] + DONE)

    upstream.reply = reply
    words = []
    with stream(service) as response:
        for line in response.iter_lines():
            if line and line != "data: [DONE]":
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                words.append(choice["delta"].get("content"))
                arrived.release()
    assert words == ["a", " red", " car", None]


def test_a_slow_reader_slows_the_upstream_down(service, upstream):
    """The upstream writes until its own socket is full, which nobody but the reader empties."""
    blocked, part = threading.Event(), event(chunk("x" * 60_000))
    num_parts = 4000

    def reply(handler, _):
        handler.begin_stream()
        for _ in range(num_parts):
            if not select.select([], [handler.connection], [], 2)[1]:
                blocked.set()
            handler.wfile.write(part)
        handler.wfile.write(ANSWER[3] + DONE)

    upstream.reply = reply
    with stream(service) as response:
        lines = response.iter_lines()
        next(lines)
        assert blocked.wait(WAIT_S)
        num_read = 1 + sum(1 for line in lines if line)
    assert num_read == num_parts + 2


def test_a_client_that_leaves_ends_the_upstreams_stream(service, upstream):
    ended = threading.Event()

    def reply(handler, _):
        handler.begin_stream()
        handler.wfile.write(ANSWER[0])
        # Nothing more is written: readable means that the other side has hung up.
        if select.select([handler.connection], [], [], WAIT_S)[0]:
            assert handler.connection.recv(1, socket.MSG_PEEK) == b""
            ended.set()

    upstream.reply = reply
    with stream(service) as response:
        next(response.iter_lines())
    assert ended.wait(WAIT_S)
    service.wait_until(lambda: service.runtime.in_flight.num_inside == 0)


def test_a_client_that_leaves_before_the_answer_ends_the_upstreams_work(service, upstream):
    asked, ended = threading.Event(), threading.Event()

    def reply(handler, _):
        asked.set()
        if select.select([handler.connection], [], [], WAIT_S)[0]:
            ended.set()

    upstream.reply = reply
    body = json.dumps(chat(user(text_part()))).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        assert asked.wait(WAIT_S)
    assert ended.wait(WAIT_S)
    service.wait_until(lambda: service.runtime.in_flight.num_inside == 0)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (ANSWER[:2], "cut"),
        ([*ANSWER[:2], event(chunk(" car"))[:20]], "cut"),
        ([*ANSWER[:2], event({"error": {"message": "at /srv/secret"}}), DONE], "error_event"),
        ([*ANSWER[:2], b"event: error\n", event({"detail": "at /srv/secret"})], "error_event"),
        ([*ANSWER[:2], event("at /srv/secret"), DONE], "nonsense"),
    ],
    ids=["cut between chunks", "cut within one", "an error", "an error event", "no json"],
)  # fmt: skip
def test_a_stream_that_breaks_off_ends_with_an_error_in_openais_shape(
    service, upstream, events, reason
):
    upstream.reply = write_all(*events)
    failures = service.metric("codefend_upstream_errors_total", reason=reason)
    with stream(service) as response:
        assert response.status_code == 200
        lines = [line for line in events_of(response) if not line.startswith("event:")]
    error = json.loads(lines[-1])["error"]
    assert (error["type"], error["code"]) == ("upstream_error", "upstream_error")
    assert set(error) == {"message", "type", "param", "code"}
    words = [json.loads(line)["choices"][0]["delta"]["content"] for line in lines[:-1]]
    assert words == ["a", " red"]
    assert "secret" not in str(lines)
    assert service.metric("codefend_upstream_errors_total", reason=reason) == failures + 1
    labels = {"endpoint": PATH, "outcome": "upstream_error"}
    assert service.metric("codefend_requests_total", **labels) >= 1


def test_a_connection_that_is_torn_is_an_error_too(service, upstream):
    def reply(handler, _):
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("content-length", "100000")
        handler.end_headers()
        handler.wfile.write(b"".join(ANSWER))

    upstream.reply = reply
    with stream(service) as response:
        lines = events_of(response)
    assert json.loads(lines[-1])["error"]["code"] == "upstream_error"
    assert not any("[DONE]" in line or "codefend" in line for line in lines)


def test_an_upstream_that_does_not_stream_is_a_502(service, upstream):
    upstream.reply = lambda handler, _: handler.send(b'{"choices": []}', "application/json")
    with stream(service) as response:
        assert response.status_code == 502


def test_a_refusal_comes_before_the_stream_begins(service, upstream):
    upstream.reply = lambda handler, _: handler.send(b"{}", "application/json", status=429)
    with stream(service) as response:
        assert response.status_code == 429
        assert json.loads(response.read())["error"]["code"] == "upstream_busy"
