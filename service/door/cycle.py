"""One request and its answer on a connection: the answer is sent no faster than it is taken."""

import asyncio
from collections.abc import Callable, Iterator
from typing import cast

from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["Cycle"]

# So much is handed to the transport at a time: what it could not send at once lies there.
PIECE_BYTES = 1 << 18


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
