"""Puts the `codefend` object into an upstream's answer, and leaves every other byte as it came."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from codefend.service.forward.completion import read_chunk
from codefend.service.forward.failures import Failure, Reason
from codefend.service.forward.lines import MAX_LINE_BYTES, LineCutter

__all__ = ["StreamSplicer", "splice_answer"]

OWN_FIELD = b'"codefend":'
_IDENTITY = ("id", "created", "model")


def splice_answer(answer: bytes, told: bytes) -> bytes:
    """Adds the object at the end of a JSON object that has other fields.

    Args:
        answer: The upstream's, known to be such an object.
        told: JSON.
    """
    end = answer.rindex(b"}")
    return b"".join((answer[:end], b",", OWN_FIELD, told, answer[end:]))


class StreamSplicer:
    """Passes server-sent events on, line by line, and tells what was done in the last chunk.

    A chunk of its own would have no choices, and many clients take the first of them unseen. So the
    chunk that may be the last, which says why the answer ends or how long it was, is held until the
    next one is there.
    """

    def __init__(self, describe: Callable[[], bytes]) -> None:
        """Begins before the first byte.

        Args:
            describe: Makes the object, as JSON, when the answer is over.
        """
        self._describe = describe
        self._cutter = LineCutter()
        self._held = b""
        # Appended in place: an upstream may send a million lines between two chunks.
        self._after_held = bytearray()
        self._identity: dict[str, Any] = {}
        self._has_reasons = False
        self.is_done = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Takes bytes of the upstream; yields what can be passed on by now.

        Raises:
            Failure: It sent an error.
            ValueError: It sent something that is no chunk.
        """
        for line in self._cutter.feed(chunk):
            if not self.is_done:
                yield self._pass(line)

    def end(self) -> bytes:
        """Takes the end of the upstream's stream; returns what is still to be passed on.

        Raises:
            Failure: The stream was cut: nothing in it said that the answer was over.
        """
        if self.is_done:
            return b""
        rest = self._pass_unfinished(self._cutter.rest())
        if self.is_done:
            return rest
        if not self._has_reasons:
            raise Failure(Reason.CUT)
        return rest + self._tell()

    def _pass_unfinished(self, line: bytes) -> bytes:
        try:
            return self._pass(line + b"\n\n") if line else b""
        except ValueError as error:
            # What has no end and is no chunk was to become one.
            raise Failure(Reason.CUT) from error

    def _pass(self, line: bytes) -> bytes:
        name, _, value = line.partition(b":")
        value = value.strip()
        if name == b"event" and value == b"error":
            raise Failure(Reason.ERROR_EVENT)
        if name != b"data" or not value:
            return self._hold_or_pass(line)
        if value == b"[DONE]":
            self.is_done = True
            # The empty line that ends the event is added, since nothing more is read.
            ending = b"\r\n" if line.endswith(b"\r\n") else b"\n"
            return self._tell() + line.rstrip(b"\r\n") + ending + ending
        released = self._release()
        if not self._may_be_last(value):
            return released + line
        self._held = line
        return released

    def _hold_or_pass(self, line: bytes) -> bytes:
        """A line between chunks follows the chunk before it."""
        if not self._held:
            return line
        self._after_held += line
        if len(self._after_held) > MAX_LINE_BYTES:
            msg = "an event without an end"
            raise ValueError(msg)
        return b""

    def _release(self) -> bytes:
        released = self._held + self._after_held
        self._held = b""
        self._after_held.clear()
        return released

    def _may_be_last(self, payload: bytes) -> bool:
        """Looks into a chunk: whether its choices, if it has any, are at their end.

        Raises:
            Failure: It is an error.
            ValueError: It is no chunk.
        """
        chunk = read_chunk(payload)
        self._identity = {name: chunk[name] for name in _IDENTITY if name in chunk}
        choices = chunk.get("choices") or []
        is_over = all(choice.get("finish_reason") for choice in choices)
        self._has_reasons = self._has_reasons or (bool(choices) and is_over)
        return is_over

    def _tell(self) -> bytes:
        """The held chunk with the object in it; without one, a chunk for the object alone."""
        if self._held:
            self._held = splice_answer(self._held, self._describe())
            return self._release()
        chunk = self._identity | {"object": "chat.completion.chunk", "choices": []}
        own = splice_answer(json.dumps(chunk, separators=(",", ":")).encode(), self._describe())
        return b"data: " + own + b"\n\n"
