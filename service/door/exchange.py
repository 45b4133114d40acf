"""One request and its answer: how long its head is, how it looks, how fast the answer is sent."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from codefend.service.door.connections import DoorLimits
from codefend.service.errors import CodefendError, HeadTooLarge, MalformedRequest

__all__ = ["Cycle", "Meter", "check_head", "read_target", "write_refusal"]

# So much is handed to the transport at a time: what it could not send at once lies there.
PIECE_BYTES = 1 << 18


# Beside the bytes of a chunked body, this part of them may be framing: chunks of 48 bytes pass.
FRAMING_SHARE = 8
FRAMING_MESSAGE = (
    "The chunked body has too many trailers or chunk extensions, or too small chunks. "
    "Send larger chunks, or a Content-Length."
)


class Meter:
    """Counts what one connection's parser was fed: heads, and what is not body in chunked bodies.

    Attributes:
        is_in_head: From the end of a request to the end of the next one's head.
        num_head_bytes: Of the head that is being read.
    """

    def __init__(self, limits: DoorLimits) -> None:
        self.is_in_head = True
        self.num_head_bytes = 0
        self._limits = limits
        self._num_fields = 0
        self._num_body_bytes = 0
        self._num_framing_bytes = 0
        self._num_ended = 0

    def begin_request(self) -> None:
        """Begins to count fields, body and framing anew."""
        self._num_fields = self._num_body_bytes = self._num_framing_bytes = 0

    def count_field(self) -> None:
        """Counts a header field, or a trailer.

        Raises:
            HeadTooLarge: There are too many.
        """
        self._num_fields += 1
        if self._num_fields > self._limits.max_fields:
            raise HeadTooLarge

    def end_head(self) -> None:
        """Says that a head is whole."""
        self.is_in_head, self.num_head_bytes = False, 0

    def count_body(self, num_bytes: int) -> None:
        """Counts what is body."""
        self._num_body_bytes += num_bytes

    def end_request(self) -> None:
        """Says that a request is whole."""
        self.is_in_head, self.num_head_bytes = True, 0
        self._num_ended += 1

    def mark(self) -> tuple[bool, int, int]:
        """Where the parser is; `count_piece` asks for it."""
        return self.is_in_head, self._num_ended, self._num_body_bytes

    def count_piece(self, num_bytes: int, before: tuple[bool, int, int]) -> None:
        """Counts a piece that was parsed without the end of a request.

        Args:
            num_bytes: Of the piece.
            before: What `mark` said before the piece was parsed.

        Raises:
            HeadTooLarge: The head is, or the chunks have too much around them.
        """
        was_in_head, num_ended, num_body_bytes = before
        if self._num_ended != num_ended:
            return
        if self.is_in_head:
            self.num_head_bytes += num_bytes
            if self.num_head_bytes >= self._limits.max_head_bytes:
                raise HeadTooLarge
        elif not was_in_head:
            self._num_framing_bytes += num_bytes - (self._num_body_bytes - num_body_bytes)
            allowed = self._limits.max_framing_bytes + self._num_body_bytes // FRAMING_SHARE
            if self._num_framing_bytes > allowed:
                raise HeadTooLarge(FRAMING_MESSAGE)


def check_head(version: str, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    """Refuses what httptools takes, and what two readers could read in two ways.

    Args:
        version: Of HTTP.
        target: As in the request's line.
        fields: With names in lower case.

    Raises:
        MalformedRequest: It is such a head.
    """
    if version not in {"1.0", "1.1"}:
        raise MalformedRequest("Send HTTP/1.1.")
    names = [name for name, _ in fields]
    num_hosts = names.count(b"host")
    if num_hosts != 1 and (num_hosts or version == "1.1"):
        raise MalformedRequest("Send one Host header, and no more than one.")
    if names.count(b"content-type") > 1:
        raise MalformedRequest("Send one Content-Type header, not several.")
    if b"transfer-encoding" in names:
        encoding = fields[names.index(b"transfer-encoding")][1]
        if version == "1.0" or encoding.strip().lower() != b"chunked":
            raise MalformedRequest("Of the transfer encodings only chunked is taken.")
    if not target.startswith((b"/", b"*")):
        # A proxy's form: it names the host once more, and must name the same.
        scheme, _, rest = target.partition(b"://")
        authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
        host = fields[names.index(b"host")][1] if num_hosts else authority
        if scheme.lower() not in {b"http", b"https"} or authority.lower() != host.lower():
            raise MalformedRequest("Send a path as the target, or a URL of the host in Host.")


def read_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Takes a target apart; one that httptools cannot read is an HttpParserInvalidURLError.

    Returns:
        The path, decoded; the path as it came; the query.
    """
    parsed = httptools.parse_url(target)
    raw_path = parsed.path or b"/"
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, parsed.query or b""


def write_refusal(error: CodefendError, fields: list[tuple[bytes, bytes]]) -> bytes:
    """Writes the answer to a request that never becomes one: the last of its connection.

    Args:
        error: Says what was wrong.
        fields: Of the server's answers.
    """
    body = json.dumps(error.body()).encode()
    own = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error.headers(),
    }
    lines = [b"%b: %b\r\n" % field for field in fields]
    lines += [f"{name}: {value}\r\n".encode() for name, value in own.items()]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])


class Cycle(RequestResponseCycle):
    """Uvicorn's, with three differences.

    An answer that begins before the request's body is whole says `Connection: close`. Its end
    closes nothing by itself: the connection does, once the client had time to read. And `send`
    returns only when the transport holds less than its low mark: until then the answer is in this
    process's memory, and whoever sends it holds the request's slot.
    """

    # Set by the connection, as uvicorn's constructor takes all that there is.
    unread_timeout_s: float
    on_unread: Callable[[], None]
    is_last = False

    async def send(self, message: ASGISendEvent) -> None:
        """Sends a part of the answer, and waits until it is taken."""
        if message["type"] == "http.response.start":
            if self.more_body:
                self.keep_alive = False
            await super().send(message)
            # Decided, and written: from here on the connection's end is not the answer's.
            self.is_last, self.keep_alive = not self.keep_alive, True
            return
        if message["type"] != "http.response.body":
            await super().send(message)
            return
        for piece in _pieces(message):
            await super().send(piece)
            await self._until_taken()

    async def _until_taken(self) -> None:
        if not self.flow.write_paused:
            return
        try:
            async with asyncio.timeout(self.unread_timeout_s):
                await self.flow.drain()
        except TimeoutError:
            self.on_unread()


def _pieces(message: HTTPResponseBodyEvent) -> Iterator[HTTPResponseBodyEvent]:
    body = message.get("body", b"")
    if len(body) <= PIECE_BYTES:
        yield message
        return
    view = memoryview(body)
    for begin in range(0, len(body), PIECE_BYTES):
        end = begin + PIECE_BYTES
        piece = cast("bytes", view[begin:end])  # uvicorn joins and writes it, and no more
        more = end < len(body) or message.get("more_body", False)
        yield {"type": "http.response.body", "body": piece, "more_body": more}
