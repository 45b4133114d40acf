"""An answer on its way: server-sent events, read from the upstream no faster than passed on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from codefend.service.forward.breaker import Passage
from codefend.service.forward.completion import read_chunk
from codefend.service.forward.exchange import Arrival
from codefend.service.forward.failures import NONSENSE, Failure, Reason
from codefend.service.forward.lines import LineCutter

__all__ = ["EVENT_STREAM", "AnswerStream", "Feed"]

EVENT_STREAM = "text/event-stream"
# So many bytes can be thousands of lines: each piece is looked at in some milliseconds.
PIECE_BYTES = 1 << 13
_DONE = b"[DONE]"


class Feed(Protocol):
    """What makes of an upstream's stream what is passed on."""

    @property
    def is_done(self) -> bool:
        """Whether the stream said that it is over; what may follow is not read."""

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """Takes bytes and yields those to pass on.

        Raises:
            Failure: They are an error.
            ValueError: They are no answer, or one of its kin.
        """

    def end(self) -> bytes:
        """The last bytes to pass on; raises for an answer that is not whole."""


class AnswerStream:
    """Passes an answer on; whatever ends it, `close` must be called."""

    def __init__(
        self,
        arrival: Arrival,
        passage: Passage,
        judged: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Takes an answer that has begun.

        Args:
            arrival: Its body.
            passage: The request's.
            judged: Turns what goes wrong into an UpstreamError.
        """
        self._arrival = arrival
        self._passage = passage
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
                    self._passage.show_life()
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
            raise Failure(Reason.CUT)
        return b""

    def _look_at(self, payload: bytes) -> None:
        choices = read_chunk(payload).get("choices") or []
        if any(choice.get("finish_reason") for choice in choices):
            self._has_reason = True


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
    except (Failure, *NONSENSE) as failure:
        return b"".join(gathered), failure
    return b"".join(gathered), None
