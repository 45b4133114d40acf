"""One connection: uvicorn's HTTP protocol on httptools, with bounds on all that comes before a key.

httptools bounds nothing by itself. What is counted here is what it was fed: a head by its bytes,
fields and time; a chunked body by the bytes that are not body. It is fed in small pieces, so that
no piece takes the event loop for long, and raising in its callbacks stops it at once.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, cast

import httptools
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from codefend.service.door.connections import (
    ConnectionRegister,
    Cycle,
    check_head,
    read_target,
    write_refusal,
)
from codefend.service.errors import (
    CodefendError,
    HeadTimeout,
    HeadTooLarge,
    MalformedRequest,
    TargetTooLong,
    TooManyConnections,
)
from codefend.service.policy import PROBES

__all__ = ["DoorProtocol", "make_config", "serving"]

PIECE_BYTES = 1 << 14
UPGRADE_FIELDS = frozenset({b"connection", b"upgrade", b"http2-settings"})
# Beside the bytes of a chunked body, this part of them may be framing: chunks of 48 bytes pass.
FRAMING_SHARE = 8
FRAMING_MESSAGE = (
    "The chunked body has too many trailers or chunk extensions, or too small chunks. "
    "Send larger chunks, or a Content-Length."
)
UNREAD = "unread_answer"
SILENT = "silent"


class DoorProtocol(HttpToolsProtocol):
    """A connection: reads one request after another, within the bounds of its door."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: ConnectionRegister,
    ) -> None:
        """Takes what uvicorn gives to every protocol, and the register of connections."""
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._limits = connections.limits
        self._is_beyond_cap = False
        self._running: Cycle | None = None
        self._timer: asyncio.TimerHandle | None = None
        # From the end of a request to the end of the next one's head.
        self._is_in_head = True
        self._is_upgrade = False
        self._num_head_bytes = 0
        self._num_fields = 0
        # Of a request's body: what is body, and what is around it.
        self._num_body_bytes = 0
        self._num_framing_bytes = 0
        self._num_ended = 0
        # Nothing more is parsed; and once the last answer is sent, what still comes is dropped.
        self._is_deaf = False
        self._is_lingering = False
        self._num_dropped_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, if there may be another."""
        super().connection_made(transport)
        self._connections.enter(self)
        self._is_beyond_cap = self._connections.is_full
        limits = self._limits
        self._begin_timer(
            limits.probe_head_timeout_s if self._is_beyond_cap else limits.head_timeout_s
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells whoever still works on an answer."""
        self._connections.leave(self)
        self._end_timer()
        self._is_deaf = True
        self.pipeline.clear()
        super().connection_lost(exc)
        self._tell_disconnected()

    def drop(self) -> None:
        """Ends the connection at once."""
        self._is_deaf = True
        self._end_timer()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parses what came, in pieces, until it breaks a bound."""
        if self._is_deaf:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        if len(data) <= PIECE_BYTES:
            self._take(data)
        else:
            view = memoryview(data)
            for begin in range(0, len(data), PIECE_BYTES):
                self._take(view[begin : begin + PIECE_BYTES])
                if self._is_deaf:
                    return
        if self._num_head_bytes and self._timer is None and not self._is_deaf:
            self._begin_timer(self._limits.head_timeout_s)

    def _take(self, piece: bytes | memoryview) -> None:
        try:
            self._feed(piece)
        except CodefendError as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, CodefendError) else MalformedRequest())

    def _feed(self, piece: bytes | memoryview) -> None:
        was_in_head, num_ended = self._is_in_head, self._num_ended
        num_body_bytes = self._num_body_bytes
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(piece[upgrade.args[0] :])
            return
        if self._num_ended != num_ended:
            return
        limits = self._limits
        if self._is_in_head:
            self._num_head_bytes += len(piece)
            if self._num_head_bytes >= limits.max_head_bytes:
                raise HeadTooLarge
        elif not was_in_head:
            self._num_framing_bytes += len(piece) - (self._num_body_bytes - num_body_bytes)
            allowed = limits.max_framing_bytes + self._num_body_bytes // FRAMING_SHARE
            if self._num_framing_bytes > allowed:
                raise HeadTooLarge(FRAMING_MESSAGE)

    def _go_on_without_upgrade(self, rest: bytes | memoryview) -> None:
        """Reads a request that offers another protocol as if it did not (RFC 9110, section 7.8).

        httptools stops at its head and would take its body for the next request. Java's own client
        offers HTTP/2 with every first request.
        """
        self._is_upgrade = False
        fields = [field for field in self.headers if field[0] not in UPGRADE_FIELDS]
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%b: %b" % field for field in fields]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n")
        self._feed(rest)

    # The parser's callbacks: an exception stops it

    def on_message_begin(self) -> None:
        """Begins a request."""
        super().on_message_begin()
        self._num_fields = self._num_body_bytes = self._num_framing_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Takes a part of the request's target."""
        self.url += url
        if len(self.url) > self._limits.max_target_bytes:
            raise TargetTooLong

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a field; trailers are counted and dropped: they came after the key was checked."""
        self._num_fields += 1
        if self._num_fields > self._limits.max_fields:
            raise HeadTooLarge
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Starts the request, or puts it behind the one that is being answered."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise MalformedRequest("This is no proxy.")
            self._is_upgrade = True
            return
        self._is_in_head, self._num_head_bytes = False, 0
        self._end_timer()
        version = self.parser.get_http_version()
        check_head(version, self.url, self.headers)
        self.scope["http_version"] = version
        self.scope["method"] = self.parser.get_method().decode("ascii")
        path, self.scope["raw_path"], self.scope["query_string"] = read_target(self.url)
        self.scope["path"] = path
        if self._is_beyond_cap:
            self._is_beyond_cap = self._connections.is_full
        if self._is_beyond_cap and path.removesuffix("/") not in PROBES:
            raise TooManyConnections
        if len(self.pipeline) >= self._limits.max_pipelined:
            raise MalformedRequest("Too many requests wait for their answers on this connection.")
        self._connections.work(self)
        before, self.cycle = self.cycle, self._make_cycle(version)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body."""
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends a request."""
        if self._is_upgrade:
            return
        self._is_in_head, self._num_head_bytes = True, 0
        self._num_ended += 1
        super().on_message_complete()

    def _make_cycle(self, version: str) -> Cycle:
        can_stay = version == "1.1" and self.parser.should_keep_alive()
        cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=can_stay and not self._is_beyond_cap,
            on_response=self.on_response_complete,
        )
        cycle.unread_timeout_s = self._limits.unread_timeout_s
        cycle.on_unread = self._on_unread
        return cycle

    # The ends of answers, and of the connection

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cast("Cycle", cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Goes on with the next request, or ends the connection."""
        running = self._running
        is_last = running is not None and running.is_last
        if is_last or (self._is_deaf and not self.pipeline):
            self.server_state.total_requests += 1
            self.pipeline.clear()
            # Closed while something of it is unread, TCP would take the answer back (RFC 9112,
            # section 9.6).
            if self._is_deaf or (running is not None and running.more_body):
                self._linger()
            else:
                self.transport.close()
            return
        if not self.pipeline:
            self._connections.wait(self)
        super().on_response_complete()

    def _refuse(self, error: CodefendError) -> None:
        """Answers what broke a bound, where it can be answered, and parses nothing more."""
        self._connections.note(error.code)
        self._is_deaf = True
        self._end_timer()
        running = self._running
        is_busy = running is not None and not running.response_complete
        if running is not None and is_busy and not (running is self.cycle and running.more_body):
            # It came behind a request that is still being answered: that answer is the last.
            if self.pipeline and self.cycle.more_body:
                self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else running
            last.keep_alive = False
            return
        if running is not None and is_busy and running.response_started:
            self.transport.abort()
            return
        self.transport.write(write_refusal(error, self.server_state.default_headers))
        self._tell_disconnected()
        self._linger()

    def _tell_disconnected(self) -> None:
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def _linger(self) -> None:
        """Sends the end of the answer, and leaves the client a while to read it."""
        self._is_deaf = True
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self._is_lingering = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._connections.wait(self)
        self._begin_timer(self._limits.linger_s)

    def _discard(self, num_bytes: int) -> None:
        self._num_dropped_bytes += num_bytes
        is_over = self._num_dropped_bytes > self._limits.max_lingering_bytes
        if is_over or not self._is_lingering:
            self.flow.pause_reading()
        elif pause_s := self._connections.pause_of_dropping_s(num_bytes):
            self.flow.pause_reading()
            self.loop.call_later(pause_s, self._go_on_dropping)

    def _go_on_dropping(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _on_unread(self) -> None:
        self._connections.note(UNREAD)
        self.drop()

    def _begin_timer(self, seconds: float) -> None:
        self._end_timer()
        self._timer = self.loop.call_later(seconds, self._on_time)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        if self._is_lingering:
            self.transport.close()
        elif self._num_head_bytes:
            self._refuse(HeadTimeout())
        else:
            self._connections.note(SILENT)
            self.transport.close()


def make_config(app: Any, connections: ConnectionRegister, **options: Any) -> uvicorn.Config:
    """The configuration of a server behind the door.

    Args:
        app: An ASGI application.
        connections: The register, and the limits, of what it listens on.
        **options: Uvicorn's own, where they do not concern the door.
    """
    protocol = cast("type[asyncio.Protocol]", partial(DoorProtocol, connections=connections))
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        # Its lines would hold the query, and so prompts; admission writes its own.
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nobody here asks for a client's address
        backlog=connections.limits.backlog,
        timeout_keep_alive=connections.limits.keep_alive_s,
        **options,
    )


@contextlib.asynccontextmanager
async def serving(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    """Serves beside another server, in its event loop, for as long as the context lasts."""
    server = _SideServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _SideServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the main server's
