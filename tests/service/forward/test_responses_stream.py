"""The stream of a response: its last event tells, nothing else changes, and failures are errors."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.service.errors import UpstreamError
from codefend.service.forward.failures import UpstreamFailure
from codefend.service.forward.sse import StreamSplicer
from codefend.service.protocols.base import MAX_EVENT_VALUES
from codefend.service.protocols.responses import RESPONSES

TOLD = b'{"images":[]}'
ADDED = b',"codefend":' + TOLD
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "content": [], "status": "completed"}
RESPONSE = {"id": "resp_1", "object": "response", "status": "completed", "output": [ITEM]}


def event(kind, separator="\n\n", **fields):
    data = json.dumps({"type": kind, **fields})
    return f"event: {kind}{separator[: len(separator) // 2]}data: {data}{separator}"


def begin(**more):
    return event("response.created", sequence_number=0, response=RESPONSE | {"output": []}, **more)


def word(text="}", **more):
    return event("response.output_text.delta", delta=text, **more)


def end(kind="completed", **more):
    return event(
        f"response.{kind}", response=RESPONSE | {"status": kind}, sequence_number=9, **more
    )


STREAMS = {
    "as OpenAI ends it": begin() + word() + end(),
    "as vLLM ends it": begin() + word() + end() + "data: [DONE]\n\n",
    "cut short by its limit": begin() + word() + end("incomplete"),
    "a sign of life": begin() + event("keepalive", sequence_number=1) + word() + end() + ": b\n\n",
    "no numbers": event("response.created", response={}) + word() + end(),
    "carriage returns": begin(separator="\r\n\r\n") + end(separator="\r\n\r\n"),
    "no names of events": "".join(
        line + "\n\n" for line in (begin() + end()).splitlines() if line.startswith("data")
    ),
    "a type that is not known here": begin() + event("response.applause") + end(),
    "the object's name twice": begin()
    + 'data: {"type":"response.completed","response":{"output":[]},"response":{"output":[{}]}}\n\n',
}


def run(stream, pieces=None):
    splicer = StreamSplicer(RESPONSES.make_reader(), lambda: TOLD, RESPONSES.report_in)
    data = stream.encode() if isinstance(stream, str) else stream
    passed = [part for piece in pieces or [data] for part in splicer.feed(piece)]
    return b"".join(passed) + splicer.end()


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_the_last_event_tells_beside_the_fields_of_its_response(stream):
    passed = run(stream)
    assert passed.replace(ADDED, b"") == stream.encode()
    (line,) = [line for line in passed.splitlines() if b"codefend" in line]
    last = json.loads(line.removeprefix(b"data: "))
    assert last["type"] in {"response.completed", "response.incomplete"}
    assert last["response"]["codefend"] == {"images": []}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
@given(cuts=st.lists(st.integers(0, 900)))
def test_it_does_not_matter_how_the_network_cuts_the_stream(stream, cuts):
    data = stream.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert run(data, pieces) == run(data)


def test_an_event_is_passed_on_before_the_next_one_comes():
    splicer = StreamSplicer(RESPONSES.make_reader(), lambda: TOLD, RESPONSES.report_in)
    for part in (begin(), word("a"), word("b")):
        assert b"".join(splicer.feed(part.encode())) == part.encode()
    assert b"data" not in b"".join(splicer.feed(end().encode()))


BROKEN = {
    "nothing": "",
    "cut": begin() + word(),
    "over within an event": (begin() + end())[:-40],
    "a failure": begin() + event("response.failed", response={"error": {"message": "secret"}}),
    "an error": begin() + event("error", code="c", message="secret"),
    "an error of another form": begin() + 'data: {"error": {"message": "secret"}}\n\n',
    "text": begin() + "data: secret\n\n",
    "a list": begin() + "data: []\n\n",
    "no type": begin() + 'data: {"delta": "a"}\n\n',
    "a type that is none": begin() + 'data: {"type": 7}\n\n',
    "an end without a response": begin() + event("response.completed"),
    "an end without output": begin() + event("response.completed", response={"id": "resp_1"}),
    "an end that failed": begin()
    + event("response.completed", response=RESPONSE | {"error": {"message": "secret"}}),
    "more after the end": begin() + end() + word(),
    "two ends": begin() + end() + end(),
    "only [DONE]": begin() + "data: [DONE]\n\n",
    "deep": begin() + "data: " + "[" * 100_000 + "\n\n",
    "too many values": begin() + 'data: {"type":"a","x":[' + "[]," * MAX_EVENT_VALUES + "[]]}\n\n",
}


@pytest.mark.parametrize("stream", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_response_and_what_is_half_of_one_is_an_error(stream):
    with pytest.raises((UpstreamFailure, ValueError, TypeError, RecursionError)) as raised:
        run(stream)
    assert "secret" not in str(raised.value)


def test_the_ids_of_an_answer_and_of_its_items_are_handed_out():
    reader = RESPONSES.make_reader()
    item = {"type": "reasoning", "id": "rs_1"}
    for payload in (
        {"type": "response.created", "response": {"id": "resp_0", "previous_response_id": "old"}},
        {"type": "response.output_item.added", "item": {"id": "rs_0"}},
        {"type": "response.output_item.done", "item": item},
        {"type": "response.output_item.done", "item": 7},
        {"type": "response.completed", "response": RESPONSE | {"output": [ITEM, {"id": 7}, "x"]}},
    ):
        reader.read(json.dumps(payload).encode())
    assert reader.ids == ["rs_1", "resp_1", "msg_1"]


@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b'{"id": "resp_1"}',
        b'{"output": {}}',
        b'{"output": [], "error": {"message": "s"}}',
        b'{"output": [], "status": "failed"}',
        b'{"output": [NaN]}',
    ],
)
def test_what_is_no_whole_answer_is_refused(answer):
    with pytest.raises((ValueError, TypeError)):
        RESPONSES.read_answer(answer)


def test_an_error_within_a_stream_is_read_by_both_kinds_of_clients():
    name, data = RESPONSES.error_event(UpstreamError(), "req").decode().strip().split("\n")
    assert name == "event: error"
    told = json.loads(data.removeprefix("data: "))
    assert told["type"] == "error"
    assert {"code", "message", "param", "sequence_number"} < told.keys()
    assert told["error"]["message"] == told["message"] == UpstreamError.message
