"""The codefend object joins an answer, and no other byte of it changes."""

import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.service.forward.failures import UpstreamFailure
from codefend.service.forward.sse import MAX_LINE_BYTES, PIECE_BYTES, StreamSplicer, splice_answer
from codefend.service.protocols.base import MAX_EVENT_VALUES
from codefend.service.protocols.chat import CHAT_COMPLETIONS
from codefend.service.protocols.messages import MESSAGES

TOLD = b'{"images":[]}'
ADDED = b',"codefend":' + TOLD


def chunk(content=None, reason=None, **fields):
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return {"id": "c1", "created": 3, "model": "m", "choices": [choice], **fields}


def events(*payloads, done=True, separator="\n\n"):
    lines = [p if isinstance(p, str) else json.dumps(p) for p in payloads]
    return "".join(f"data: {p}{separator}" for p in [*lines, *(["[DONE]"] if done else [])])


def named(*kinds, separator="\n\n"):
    """Anthropic's events: types, or types and fields."""
    pairs = [(kind, {}) if isinstance(kind, str) else kind for kind in kinds]
    return "".join(
        f"event: {kind}{separator[: len(separator) // 2]}"
        f"data: {json.dumps({'type': kind} | fields)}{separator}"
        for kind, fields in pairs
    )


def run(stream, pieces=None, protocol=CHAT_COMPLETIONS):
    splicer = StreamSplicer(protocol.make_reader(), lambda: TOLD, protocol.report_in)
    stream = stream.encode() if isinstance(stream, str) else stream
    passed = [part for piece in pieces or [stream] for part in splicer.feed(piece)]
    return b"".join(passed) + splicer.end()


def told_in(passed):
    """The events that hold the object."""
    lines = [line.removeprefix(b"data:").strip() for line in passed.splitlines() if line]
    return [json.loads(line) for line in lines if b"codefend" in line]


STREAMS = {
    "ends with a reason": events(chunk("a"), chunk("b"), chunk(reason="stop")),
    "ends with usage": events(
        chunk("a"), chunk(reason="length"), {"id": "c1", "choices": [], "usage": {"t": 1}}
    ),
    "has no [DONE]": events(chunk("a"), chunk(reason="stop"), done=False),
    "two answers": events(chunk("a"), chunk(reason="stop"), chunk("b"), chunk(reason="stop")),
    "carriage returns": events(chunk("a"), chunk(reason="stop"), separator="\r\n\r\n"),
    "comments and ids": ": hello}\n\n"
    + events(chunk("a"), done=False)
    + "id: 7\nevent: message\n"
    + events(chunk(reason="stop"), done=False)
    + ": {ping}\n\n"
    + events(),
    "a first chunk without choices": events({"choices": []}, chunk("a"), chunk(reason="stop")),
    "no space after the colon": 'data:{"choices":[{"finish_reason":"stop"}]}\n\ndata:[DONE]\n\n',
}


START = ("message_start", {"message": {"id": "msg_1", "content": []}})
SAYS = ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "}"}})
ENDS = ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}})
COUNTS = ("message_delta", {"delta": {"stop_reason": None}, "usage": {"output_tokens": 2}})
EVENTS = {
    "ends with a reason": named(START, "ping", SAYS, ENDS, "message_stop"),
    "a ping before the end": named(START, SAYS, ENDS, "ping", "message_stop"),
    "a block that ends late": named(
        START, ENDS, ("content_block_stop", {"index": 0}), "message_stop"
    ),
    "counts on the way": named(START, COUNTS, SAYS, ENDS, "message_stop"),
    "counts at the end": named(START, SAYS, ENDS, COUNTS, "message_stop"),
    "no reason": named(START, SAYS, COUNTS, "ping", "message_stop"),
    "two reasons": named(START, SAYS, ENDS, ENDS, "message_stop"),
    "no stop": named(START, SAYS, ENDS),
    "carriage returns": named(START, SAYS, ENDS, "message_stop", separator="\r\n\r\n"),
    "an event of tomorrow's": named(START, ("applause", {"volume": 3}), SAYS, ENDS, "message_stop"),
}


@pytest.mark.parametrize("stream", EVENTS.values(), ids=EVENTS.keys())
def test_the_last_message_delta_tells_and_all_else_is_untouched(stream):
    passed = run(stream, protocol=MESSAGES)
    assert passed.replace(ADDED, b"").strip() == stream.encode().strip()
    (last,) = told_in(passed)
    assert last["codefend"] == {"images": []}
    assert {"delta", "usage"} < last.keys()
    deltas = [line for line in passed.splitlines() if b'"message_delta"' in line]
    assert b"codefend" in deltas[-1]


@pytest.mark.parametrize("stream", EVENTS.values(), ids=EVENTS.keys())
@given(cuts=st.lists(st.integers(0, 700)))
def test_nor_does_it_matter_for_messages_how_the_network_cuts_them(stream, cuts):
    data = stream.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert run(data, pieces, MESSAGES) == run(data, protocol=MESSAGES)


@pytest.mark.parametrize(
    "stream",
    [
        "",
        named(START, SAYS),
        named(START, SAYS, COUNTS),
        named(START, SAYS, "message_stop"),
        named(START, ("error", {"error": {"message": "secret"}})),
        events(START[1] | {"type": "error", "message": "secret"}, done=False),
        events({"error": {"message": "secret"}}, done=False),
        named(START, ("message_delta", {"secret": 1}), "message_stop"),
        named("message_start", ENDS, "message_stop"),
        named(START, ("content_block_start", {"content_block": "secret"}), ENDS, "message_stop"),
        events({"message": {}}, {"type": 7}, done=False),
        events(chunk("a"), chunk(reason="stop")),
        named(START, ENDS) + named("ping") * (MAX_LINE_BYTES // 36 + 1) + named("message_stop"),
    ],
)
def test_what_is_no_message_and_what_is_half_of_one_is_an_error(stream):
    with pytest.raises((UpstreamFailure, ValueError, TypeError, LookupError)) as raised:
        run(stream, protocol=MESSAGES)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_the_last_chunk_tells_and_all_else_is_untouched(stream):
    passed = run(stream)
    assert passed.replace(ADDED, b"") == stream.encode()
    (last,) = told_in(passed)
    assert last["codefend"] == {"images": []}
    payloads = [line for line in passed.splitlines() if line.startswith(b"data")]
    ends = [line for line in payloads if b"[DONE]" not in line]
    assert b"codefend" in ends[-1]


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
@given(cuts=st.lists(st.integers(0, 700)))
def test_it_does_not_matter_how_the_network_cuts_the_stream(stream, cuts):
    data = stream.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert run(data, pieces) == run(data)


def test_without_a_chunk_to_hold_a_chunk_of_its_own_tells():
    passed = run(events(chunk("a"), chunk("b")))
    (last,) = told_in(passed)
    assert last["choices"] == []
    assert (last["id"], last["model"]) == ("c1", "m")
    assert passed.endswith(b"data: [DONE]\n\n")
    assert passed.startswith(events(chunk("a"), chunk("b"), done=False).encode())


def test_a_chunk_is_passed_on_before_the_next_one_comes():
    splicer = StreamSplicer(CHAT_COMPLETIONS.make_reader(), lambda: TOLD)
    for word in ("a", "b"):
        event = events(chunk(word), done=False).encode()
        assert b"".join(splicer.feed(event)) == event
    last = events(chunk(reason="stop"), done=False).encode()
    assert b"".join(splicer.feed(last)) == b""


@pytest.mark.parametrize(
    "stream",
    [
        events({"error": {"message": "secret"}}),
        events({"object": "error", "message": "secret"}),
        "event: error\n" + events({"message": "secret"}),
        events(chunk("a"), "not json"),
        events(chunk("a"), "7"),
        events(chunk("a"), '{"choices": [7]}'),
        events(chunk("a"), "[" * 100_000),
        events(chunk("a"), done=False),
        "",
        "data: " + "x" * (MAX_LINE_BYTES + 1),
        events('{"choices": [' + "[]," * MAX_EVENT_VALUES + "[]]}"),
        events(chunk("a"), '{"choices": [], "usage": {"t": NaN}}'),
        events(chunk("a"), done=False).encode("utf-16"),
        ': ping\rdata: {"error": "secret"}\n\n' + events(chunk(reason="stop")),
        events(chunk(reason="stop"), done=False) + ": secret\n" * (MAX_LINE_BYTES // 9 + 1),
    ],
)
def test_what_is_no_answer_and_what_is_half_of_one_is_an_error(stream):
    with pytest.raises((UpstreamFailure, ValueError, TypeError, RecursionError)) as raised:
        run(stream)
    assert "secret" not in str(raised.value)


def test_nothing_is_read_after_the_end():
    stream = events(chunk(reason="stop"))
    assert (
        run(stream + events(chunk("more"))).replace(ADDED, b"").strip() == stream.strip().encode()
    )


def test_an_answer_keeps_its_bytes():
    answer = b'{"choices": [{}], "x": "}"  \n}\n'
    assert splice_answer(answer, TOLD) == b'{"choices": [{}], "x": "}"  \n' + ADDED + b"}\n"


@pytest.mark.alone
@pytest.mark.parametrize("line", [b":\n", b"\n", b"a:b\r\n", b": ping\n\n"])
@pytest.mark.parametrize("is_held", [True, False])
def test_a_megabyte_of_lines_between_chunks_holds_the_event_loop_for_a_moment_only(line, is_held):
    splicer = StreamSplicer(CHAT_COMPLETIONS.make_reader(), lambda: TOLD)
    last = events(chunk(reason="stop" if is_held else None), done=False).encode()
    passed = b"".join(splicer.feed(last))
    lines = line * ((1 << 20) // len(line))
    longest_s = 0.0
    for begin in range(0, len(lines), PIECE_BYTES):
        started_s = time.perf_counter()
        passed += b"".join(splicer.feed(lines[begin : begin + PIECE_BYTES]))
        longest_s = max(longest_s, time.perf_counter() - started_s)
    passed += b"".join(splicer.feed(b"data: [DONE]\n\n")) + splicer.end()
    assert lines in passed
    assert longest_s < 0.05


def test_a_chunk_may_be_long_if_it_holds_few_values():
    long = events(chunk("," * (MAX_EVENT_VALUES // 2) + "x" * (3 << 20)), chunk(reason="stop"))
    assert told_in(run(long)) != []
