"""Server-sent events: read from the upstream no faster than passed on, byte for byte or by chunk.

What arrives is cut into lines, however the network has cut it. An `AnswerStream` passes a stream
through a `Feed`: `StreamSplicer` keeps every byte and puts the `codefend` object into the last
chunk; the payloads of a question's answer are taken out one by one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from codefend.service.forward.exchange import Arrival
from codefend.service.forward.failures import NONSENSE, Reason, UpstreamFailure
from codefend.service.forward.refusals import read_refusal
from codefend.service.protocols.base import EventReader, EventRole
from codefend.service.protocols.chat import read_chunk

__all__ = ["EVENT_STREAM", "AnswerStream", "Feed", "LineCutter", "StreamSplicer", "splice_answer"]

EVENT_STREAM = "text/event-stream"
# So many bytes can be thousands of lines: each piece is looked at in some milliseconds.
PIECE_BYTES = 1 << 13
MAX_LINE_BYTES = 1 << 22
OWN_FIELD = b'"codefend":'
_DONE = b"[DONE]"
_HEAD_FIELDS = frozenset({b"event", b"id", b"retry"})
_HELD = frozenset({EventRole.MAY_BE_LAST, EventRole.LAST})
_WHOLE = frozenset({EventRole.LAST, EventRole.DONE})


class LineCutter:
    """Takes bytes, and gives back the lines that are whole by now."""

    def __init__(self) -> None:
        # Joined only once a line is whole: a line that comes byte by byte would cost its square.
        self._pieces: list[bytes] = []
        self._num_held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Takes bytes; returns lines, each with its end.

        Raises:
            ValueError: A line has no end, or to some readers more than one.
        """
        head, newline, tail = chunk.rpartition(b"\n")
        self._num_held += len(chunk) if not newline else 0
        if self._num_held > MAX_LINE_BYTES or len(tail) > MAX_LINE_BYTES:
            msg = "a line without an end"
            raise ValueError(msg)
        if not newline:
            self._pieces.append(chunk)
            return []
        whole = b"".join((*self._pieces, head, newline))
        self._pieces, self._num_held = [tail] if tail else [], len(tail)
        return [_one_line(line) + b"\n" for line in whole[:-1].split(b"\n")]

    def rest(self) -> bytes:
        """What has come of a line without an end; ValueError as in `feed`."""
        return _one_line(b"".join(self._pieces))


def _one_line(line: bytes) -> bytes:
    # Alone it ends a line of server-sent events, too: behind it an event would pass unread.
    if b"\r" in line.removesuffix(b"\r"):
        msg = "a carriage return within a line"
        raise ValueError(msg)
    return line


class Feed(Protocol):
    """What makes of an upstream's stream what is passed on."""

    @property
    def is_done(self) -> bool:
        """Whether the stream said that it is over; what may follow is not read."""

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """Takes bytes and yields those to pass on.

        Raises:
            UpstreamFailure: They are an error.
            ValueError: They are no answer, or one of its kin.
        """

    def end(self) -> bytes:
        """The last bytes to pass on; raises for an answer that is not whole."""


class AnswerStream:
    """Passes an answer on; whatever ends it, `close` must be called."""

    def __init__(
        self,
        arrival: Arrival,
        show_life: Callable[[], None],
        judged: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Takes an answer that has begun.

        Args:
            arrival: Its body.
            show_life: Called with each piece of it that is passed on.
            judged: Turns what goes wrong into an UpstreamError.
        """
        self._arrival = arrival
        self._show_life = show_life
        self._judged = judged
        self._is_over = False

    async def passed_through(self, feed: Feed) -> AsyncIterator[bytes]:
        """Yields what becomes of the upstream's bytes, as they come.

        Raises:
            UpstreamError: The stream broke off, or was no answer.
        """
        with self._judged():
            async for piece in _in_pieces(self._arrival.pieces()):
                passed, failure = _gather(feed.feed(piece))
                if passed:
                    self._show_life()
                    yield passed
                if failure is not None:
                    raise failure
                if feed.is_done:
                    break
            last = feed.end()
            self._is_over = True
        yield last

    async def payloads(self) -> AsyncIterator[str]:
        """Yields each event's data, a chunk in JSON; ends before `[DONE]`.

        Raises:
            UpstreamError: The stream broke off, or was no answer.
        """
        payloads = _Payloads()
        async for passed in self.passed_through(payloads):
            for payload in passed.split(b"\n")[:-1]:
                yield payload.decode()

    async def close(self) -> None:
        """Lets the upstream know that nobody listens any more."""
        if self._is_over:
            await self._arrival.finish()
        else:
            await self._arrival.close()


class _Payloads:
    """The chunks of a stream, one a line."""

    def __init__(self) -> None:
        self._cutter = LineCutter()
        self._has_reason = False
        self.is_done = False

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        for line in self._cutter.feed(chunk):
            payload = line.removeprefix(b"data:").strip()
            if self.is_done or not line.startswith(b"data:") or not payload:
                continue
            if payload == _DONE:
                self.is_done = True
                continue
            self._look_at(payload)
            yield payload + b"\n"

    def end(self) -> bytes:
        if not (self.is_done or self._has_reason):
            raise UpstreamFailure(Reason.CUT)
        return b""

    def _look_at(self, payload: bytes) -> None:
        chunk = read_chunk(payload)
        if chunk.get("error"):
            raise _error_event(payload)
        choices = chunk.get("choices") or []
        if any(choice.get("finish_reason") for choice in choices):
            self._has_reason = True


def _error_event(payload: bytes) -> UpstreamFailure:
    # Told as a refusal is: an error that ends a stream is about the request, or says "busy".
    return UpstreamFailure(Reason.ERROR_EVENT, refusal=read_refusal(400, payload))


async def _in_pieces(arriving: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cuts what comes at once, and gives the event loop its turn in between."""
    async for arrived in arriving:
        for begin in range(0, len(arrived), PIECE_BYTES):
            if begin:
                await asyncio.sleep(0)
            yield arrived[begin : begin + PIECE_BYTES]


def _gather(pieces: Iterable[bytes]) -> tuple[bytes, Exception | None]:
    """Joins what comes before a failure, which is to be passed on before it is told of."""
    gathered: list[bytes] = []
    try:
        for piece in pieces:
            gathered.append(piece)
    except (UpstreamFailure, *NONSENSE) as failure:
        return b"".join(gathered), failure
    return b"".join(gathered), None


def splice_answer(answer: bytes, told: bytes, within: str | None = None) -> bytes:
    """Adds the object at the end of a JSON object that has other fields.

    Args:
        answer: The upstream's, known to be such an object.
        told: JSON.
        within: Adds it to the object that this member of the answer is.

    Raises:
        ValueError: There is no such member, or it is no such object.
    """
    end = answer.rindex(b"}") if within is None else _end_of_member(answer.decode(), within)
    return b"".join((answer[:end], b",", OWN_FIELD, told, answer[end:]))


def _end_of_member(text: str, name: str) -> int:
    """The place, in bytes, of the brace that ends an object within an object."""
    decoder = json.JSONDecoder()
    where, found = text.index("{") + 1, 0
    while text[where - 1] != "}":
        key, where = decoder.raw_decode(text, _skip(text, where))
        value, where = decoder.raw_decode(text, _skip(text, _skip(text, where) + 1))
        if key == name and isinstance(value, dict) and value:
            found = where - 1  # of members that stand twice, readers take the last
        where = _skip(text, where) + 1
    if not found:
        msg = f"no member {name}"
        raise ValueError(msg)
    return len(text[:found].encode())


def _skip(text: str, where: int) -> int:
    """Past white space."""
    while text[where] in " \t\r\n":
        where += 1
    return where


class StreamSplicer:
    """Passes server-sent events on, line by line, and tells what was done in the last of them.

    An event that may be the last is held until the next one is there. Which that is the protocol's
    reader says.
    """

    def __init__(
        self,
        reader: EventReader,
        describe: Callable[[], bytes],
        report_in: str | None = None,
    ) -> None:
        """Begins before the first byte.

        Args:
            reader: Says what each event means.
            describe: Makes the object, as JSON, when the answer is over.
            report_in: The member of the last event that the object stands in; None: the event.
        """
        self._reader = reader
        self._describe = describe
        self._report_in = report_in
        self._cutter = LineCutter()
        self._held = b""
        # What names an event goes with its data: clients would take the name alone for an event.
        self._head = bytearray()
        # Appended in place: an upstream may send a million lines between two chunks.
        self._after_held = bytearray()
        self._is_whole = False
        self._is_error = False
        self.is_done = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Takes bytes of the upstream; yields what can be passed on by now.

        Raises:
            UpstreamFailure: It sent an error.
            ValueError: It sent something that is no event.
        """
        for line in self._cutter.feed(chunk):
            if not self.is_done:
                yield self._pass(line)

    def end(self) -> bytes:
        """Takes the end of the upstream's stream; returns what is still to be passed on.

        Raises:
            UpstreamFailure: The stream was cut: nothing in it said that the answer was over.
        """
        if self.is_done:
            return b""
        rest = self._pass_unfinished(self._cutter.rest())
        if self.is_done:
            return rest
        if self._is_error:
            raise _error_event(b"")
        if not self._is_whole:
            raise UpstreamFailure(Reason.CUT)
        return rest + self._tell()

    def _pass_unfinished(self, line: bytes) -> bytes:
        try:
            return self._pass(line + b"\n\n") if line else b""
        except ValueError as error:
            # What has no end and is no event was to become one.
            raise UpstreamFailure(Reason.CUT) from error

    def _pass(self, line: bytes) -> bytes:
        name, _, value = line.partition(b":")
        value = value.strip()
        if self._is_error:
            raise _error_event(value if name == b"data" else b"")
        if name != b"data" or not value:
            # The line after the name of an error says which it is.
            self._is_error = (name, value) == (b"event", b"error")
            return b"" if self._is_error else self._hold_or_pass(name, line)
        role = self._reader.read(value)
        if role is EventRole.ERROR:
            raise _error_event(value)
        if role is EventRole.ASIDE:
            return self._hold_or_pass(name, line)
        self._is_whole = self._is_whole or role in _WHOLE
        if role is EventRole.DONE:
            self.is_done = True
            # The empty line that ends the event is added, since nothing more is read.
            ending = b"\r\n" if line.endswith(b"\r\n") else b"\n"
            return self._tell() + self._take_head() + line.rstrip(b"\r\n") + ending + ending
        released = self._release() + self._take_head()
        if role not in _HELD:
            return released + line
        self._held = line
        return released

    def _hold_or_pass(self, name: bytes, line: bytes) -> bytes:
        """A line between events follows the one before it; what names the next one waits for it."""
        if not self._held and name not in _HEAD_FIELDS:
            return self._take_head() + line if self._head else line
        waiting = self._after_held if self._held else self._head
        waiting += line
        if len(waiting) > MAX_LINE_BYTES:
            msg = "an event without an end"
            raise ValueError(msg)
        return b""

    def _take_head(self) -> bytes:
        head = bytes(self._head)
        self._head.clear()
        return head

    def _release(self) -> bytes:
        released = self._held + self._after_held
        self._held = b""
        self._after_held.clear()
        return released

    def _tell(self) -> bytes:
        """The held event with the object in it; without one, an event for the object alone."""
        if self._held:
            self._held = splice_answer(self._held, self._describe(), self._report_in)
            return self._release()
        event = self._reader.own_event()
        if event is None:
            raise UpstreamFailure(Reason.CUT)
        own = splice_answer(json.dumps(event, separators=(",", ":")).encode(), self._describe())
        return b"data: " + own + b"\n\n"
