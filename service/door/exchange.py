"""One request and its answer: what its head may look like, and how fast the answer is sent."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from codefend.service.errors import CodefendError, MalformedRequest

__all__ = ["Cycle", "check_head", "read_target", "write_refusal"]

# So much is handed to the transport at a time: what it could not send at once lies there.
PIECE_BYTES = 1 << 18


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
