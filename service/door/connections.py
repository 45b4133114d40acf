"""What connections may cost: how many there are, what a head looks like, how an answer is taken.

All methods of the register belong to the event loop's thread.
"""

import asyncio
import json
import logging
import re
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from codefend.service.errors import CodefendError, MalformedRequest

__all__ = [
    "Connection",
    "ConnectionRegister",
    "Cycle",
    "DoorLimits",
    "check_head",
    "fit_connections",
    "raise_open_files_limit",
    "read_target",
    "set_unread_timeout",
    "write_refusal",
]

logger = logging.getLogger(__name__)

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
# Listening sockets, the event loop's own, logs, what libraries keep open, and connections that are
# closed in a moment.
FILES_OF_THE_PROCESS = 48
# A pipe, a sentinel and standard streams; twice, as a new process starts before the old one is out.
FILES_PER_CHILD = 8
# A connection to the upstream, and the shared memory of a picture.
FILES_PER_REQUEST = 2
FEWEST_CONNECTIONS = 8
# More than anybody needs here; some systems allow a milliard.
MOST_FILES = 1 << 16
# So much is handed to the transport at a time: what it could not send at once lies there.
PIECE_BYTES = 1 << 18
LOG_EVERY_S = 60.0
# What is dropped unread of refused bodies, on all connections together.
DROPPED_BYTES_PER_S = 100 << 20
DROPPING_SLACK_S = 0.01
EVICTED = "evicted"
TURNED_AWAY = "connection_limit"


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """The bounds of one listening address.

    Attributes:
        max_connections: Connections at once; beyond them the longest without a request makes room.
        num_probe_connections: Those beyond that, for probes alone, where nobody can make room.
        backlog: Connections that the kernel holds until they are accepted; libuv accepts one at a
            time, so that few are open beyond the cap for a moment.
        max_head_bytes: A request's head: its line, and all fields.
        max_target_bytes: The request line's target (RFC 9112, section 3, asks for 8000 at least).
        max_fields: Header fields, and trailers.
        head_timeout_s: Time for a head, from its first byte or from the connection's start.
        probe_head_timeout_s: The same, beyond the cap.
        keep_alive_s: Time that an idle connection stays open.
        max_framing_bytes: Chunk sizes, extensions and trailers of a chunked body, beside an
            eighth of the body itself.
        max_pipelined: Requests that wait on one connection behind one that is answered.
        linger_s: Time for a client to read an answer that came before its body was whole.
        max_lingering_bytes: Bytes of that body that are read, and dropped, meanwhile.
        unread_timeout_s: Time for a client to take the next piece of its answer.
    """

    max_connections: int = 256
    num_probe_connections: int = 16
    backlog: int = 1024
    max_head_bytes: int = 64 * KIBIBYTE
    max_target_bytes: int = 16 * KIBIBYTE
    max_fields: int = 100
    head_timeout_s: float = 10.0
    probe_head_timeout_s: float = 2.0
    keep_alive_s: int = 30
    max_framing_bytes: int = 16 * KIBIBYTE
    max_pipelined: int = 8
    linger_s: float = 2.0
    max_lingering_bytes: int = 64 * MEBIBYTE
    unread_timeout_s: float = 30.0


def raise_open_files_limit() -> int:
    """Raises the process's soft limit of open files as far as it may; returns what holds then.

    Shells keep it at 1024 for the sake of select(2), which nobody here calls.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= highest:
        return highest
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    return highest


def fit_connections(
    limits: DoorLimits, *, open_files: int, num_children: int, max_requests: int
) -> DoorLimits:
    """Lowers the cap on connections so that files are left for everything else.

    Args:
        limits: As they are wished for.
        open_files: The limit of this process.
        num_children: Processes of its own.
        max_requests: Requests at once; each needs more files than its client's connection.
    """
    reserve = FILES_OF_THE_PROCESS + FILES_PER_CHILD * num_children + limits.num_probe_connections
    left = open_files - reserve
    # Only a connection can have a request: few connections need few of the files of requests.
    fitting = max(left // (1 + FILES_PER_REQUEST), left - FILES_PER_REQUEST * max_requests)
    fitting = max(FEWEST_CONNECTIONS, fitting)
    return replace(limits, max_connections=min(limits.max_connections, fitting))


class Connection(Protocol):
    """What the register needs of a connection."""

    def drop(self) -> None:
        """Ends it at once."""


class ConnectionRegister:
    """Counts connections, and makes room by closing the one that longest had no request."""

    def __init__(
        self,
        limits: DoorLimits,
        on_refusal: Callable[[str], None] = lambda _reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with none.

        Args:
            limits: How many there may be; read by the connections, too.
            on_refusal: Called with a short reason for everything that is refused at the door.
            clock: Seconds.
        """
        self.limits = limits
        self._on_refusal = on_refusal
        self._clock = clock
        self._open: set[Connection] = set()
        # In the order in which they began to wait: for a head, for another, or for an end.
        self._waiting: dict[Connection, None] = {}
        self._unsaid: Counter[str] = Counter()
        self._said_at_s: dict[str, float] = {}
        self._dropping_until_s = clock()

    @property
    def num_open(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether there are more than the cap: then the last ones are served probes alone."""
        return len(self._open) > self.limits.max_connections

    def enter(self, connection: Connection) -> None:
        """Takes a new connection, which waits for its first head; at the cap another makes room."""
        if len(self._open) >= self.limits.max_connections and self._waiting:
            self._end(next(iter(self._waiting)), EVICTED)
        self._open.add(connection)
        self._waiting[connection] = None
        if len(self._open) > self.limits.max_connections + self.limits.num_probe_connections:
            self._end(connection, TURNED_AWAY)

    def leave(self, connection: Connection) -> None:
        """Forgets a connection that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def wait(self, connection: Connection) -> None:
        """Says that a connection has no request any more: it may have to make room."""
        if connection in self._open:
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """Says that a connection's request is there."""
        self._waiting.pop(connection, None)

    def pause_of_dropping_s(self, num_bytes: int) -> float:
        """Counts bytes that were read for nothing; returns how long to read no more of them."""
        now_s = self._clock()
        began_at_s = max(now_s, self._dropping_until_s)
        self._dropping_until_s = began_at_s + num_bytes / DROPPED_BYTES_PER_S
        return max(0.0, self._dropping_until_s - now_s - DROPPING_SLACK_S)

    def note(self, reason: str) -> None:
        """Counts a refusal, and says it in the log, once a minute at most for each reason."""
        self._on_refusal(reason)
        self._unsaid[reason] += 1
        now_s = self._clock()
        if now_s - self._said_at_s.get(reason, now_s - LOG_EVERY_S) < LOG_EVERY_S:
            return
        self._said_at_s[reason] = now_s
        fields = {"reason": reason, "count": self._unsaid.pop(reason), "open": self.num_open}
        logger.warning("refused at the door", extra={"fields": fields})

    def _end(self, connection: Connection, reason: str) -> None:
        # Forgotten at once: its file is free in a moment, and the next newcomer needs another's.
        self.leave(connection)
        self.note(reason)
        connection.drop()


def set_unread_timeout(listener: socket.socket, seconds: float) -> None:
    """Ends connections whose peer takes nothing of what is sent for so long (RFC 5482).

    Connections inherit the wish. Without it what the kernel holds of an answer, and its connection,
    would stay for ever.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))


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
