"""HTTP connections that cost the sender next to nothing: a benchmark's client shares the machine.

A request is written once, as bytes; an answer is parsed by httptools, and only its status and
Retry-After are kept. A usual client spends several times as long on a request as a proxy does.
"""

import asyncio
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

__all__ = ["LeanConnections", "LeanReply", "write_request"]


@dataclass(frozen=True, slots=True)
class LeanReply:
    """One answer: its status (0 if the connection was lost before its end), and its Retry-After."""

    status: int
    retry_after: str = ""


LOST = LeanReply(0)


def write_request(
    url: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """A request as it goes over the wire: a POST, or a GET where there is no body.

    Args:
        url: Of the server.
        path: On it.
        body: Whole.
        headers: Beside Host and Content-Length.
    """
    method = "POST" if body else "GET"
    lines = [f"{method} {path} HTTP/1.1", f"host: {urlsplit(url).netloc}"]
    headers = headers or {}
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class LeanConnections:
    """LeanConnections to one server: kept alive, reused, and opened where none is idle."""

    def __init__(self, url: str) -> None:
        """Takes the server's address; nothing is opened yet."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            msg = f"{url} names no host and port"
            raise ValueError(msg)
        self._address = (parts.hostname, parts.port)
        self._idle: list[_Connection] = []
        self.num_opened = 0

    async def exchange(self, request: bytes) -> LeanReply:
        """Sends one request, and returns when its answer is whole; 0 for a connection lost."""
        connection = self._take_idle() or await self._open()
        if connection is None:
            return LOST
        reply = await connection.exchange(request)
        if connection.is_open:
            self._idle.append(connection)
        return reply

    def close(self) -> None:
        """Closes the idle ones."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _open(self) -> "_Connection | None":
        loop = asyncio.get_running_loop()
        self.num_opened += 1
        try:
            _, connection = await loop.create_connection(_Connection, *self._address)
        except OSError:
            return None
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._retry_after = ""
        self._done: asyncio.Future[LeanReply] | None = None

    async def exchange(self, request: bytes) -> LeanReply:
        self._done = asyncio.get_running_loop().create_future()
        self._retry_after = ""
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, since uvloop's transports are not derived from asyncio's.
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._settle(LOST)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_message_complete(self) -> None:
        reply = LeanReply(self._parser.get_status_code(), self._retry_after)
        if not self._parser.should_keep_alive():
            self.is_open = False
            self.close()
        self._parser = httptools.HttpResponseParser(self)
        self._settle(reply)

    def _settle(self, reply: LeanReply) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(reply)
