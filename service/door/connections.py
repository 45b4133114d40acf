"""The connections of one listening address: who may stay when there are too many.

All methods belong to the event loop's thread.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from codefend.service.door.limits import DoorLimits

__all__ = ["Connection", "Connections"]

logger = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
# What is dropped unread of refused bodies, on all connections together.
DROPPED_BYTES_PER_S = 100 << 20
DROPPING_SLACK_S = 0.01
EVICTED = "evicted"
TURNED_AWAY = "connection_limit"


class Connection(Protocol):
    """What the register needs of a connection."""

    def drop(self) -> None:
        """Ends it at once."""


class Connections:
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
