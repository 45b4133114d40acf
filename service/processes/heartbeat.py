"""Whether a child still turns: it counts, and the service looks whether the count moves.

A count and not a time of day: after a machine was suspended, or a container paused, both sides are
behind alike, and nobody is taken for hung.
"""

import threading
import time
from typing import Protocol

__all__ = ["BEAT_S", "Counter", "Listener", "start_beating"]

BEAT_S = 0.5


class Counter(Protocol):
    """A number in memory that two processes share."""

    value: int


def start_beating(counter: Counter) -> None:
    """Counts up every `BEAT_S`, from a thread of the present process, for as long as it runs."""
    threading.Thread(target=_beat, args=(counter,), name="heartbeat", daemon=True).start()


def _beat(counter: Counter) -> None:
    while True:
        counter.value += 1
        time.sleep(BEAT_S)


class Listener:
    """Notices that a count has stopped; pure, and asked every `BEAT_S`."""

    def __init__(self, patience_s: float) -> None:
        """Takes how long a count may stand still."""
        self._patience_s = patience_s
        self._last = -1
        self._silent_s = 0.0

    def hears(self, count: int) -> bool:
        """Whether the count moved of late."""
        self._silent_s = 0.0 if count != self._last else self._silent_s + BEAT_S
        self._last = count
        return self._silent_s < self._patience_s
