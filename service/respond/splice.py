"""Puts the `codefend` object into an upstream's answer, and leaves every other byte as it came."""

import json
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["StreamSplicer", "splice_answer"]

OWN_FIELD = b'"codefend":'
MAX_LINE_BYTES = 1 << 22
_IDENTITY = ("id", "created", "model")
_CHUNK_FIELDS = frozenset({"choices", "usage"})


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
        self._unfinished = b""
        self._held = b""
        self._after_held = b""
        self._identity: dict[str, Any] = {}
        self._has_reasons = False
        self._is_done = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Takes bytes of the upstream; yields what can be passed on by now.

        Raises:
            ValueError: It sent an error, or something that is no chunk.
        """
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        if len(self._unfinished) > MAX_LINE_BYTES:
            msg = "a line without an end"
            raise ValueError(msg)
        for line in lines:
            yield self._pass(line + b"\n")

    def end(self) -> bytes:
        """Takes the end of the upstream's stream; returns what is still to be passed on.

        Raises:
            ValueError: The stream was cut: nothing in it said that the answer was over.
        """
        rest = self._pass(self._unfinished + b"\n\n") if self._unfinished else b""
        if self._is_done:
            return rest
        if not self._has_reasons:
            msg = "a stream without an end"
            raise ValueError(msg)
        return rest + self._tell()

    def _pass(self, line: bytes) -> bytes:
        if self._is_done:
            return b"" if line.strip() else line
        name, _, value = line.partition(b":")
        value = value.strip()
        if name == b"event" and value == b"error":
            msg = "an error"
            raise ValueError(msg)
        if name != b"data" or not value:
            return self._hold_or_pass(line)
        if value == b"[DONE]":
            self._is_done = True
            return self._tell() + line
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
        return b""

    def _release(self) -> bytes:
        released = self._held + self._after_held
        self._held = self._after_held = b""
        return released

    def _may_be_last(self, payload: bytes) -> bool:
        """Looks into a chunk: whether its choices, if it has any, are at their end.

        Raises:
            ValueError: It is none; what an upstream's error says is not passed on.
        """
        chunk = json.loads(payload)
        if not isinstance(chunk, dict) or chunk.get("error") or not chunk.keys() & _CHUNK_FIELDS:
            msg = "no chunk"
            raise ValueError(msg)
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
