"""Whether a child is alive, by three signs.

- A child with a thread to spare counts, and the service looks whether the count moves. A count and
  not a time of day: after a machine was suspended, or a container paused, both sides are behind
  alike, and nobody is taken for hung.
- The kernel says whether a process is stopped (SIGSTOP): such a one is lost for the service,
  whatever stopped it.
- A confined child has one thread only, and it decodes. The kernel says how much processor time it
  has used: one that owes an answer and uses none does nothing for it.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = [
    "BEAT_S",
    "Counter",
    "HeartbeatMonitor",
    "StallDetector",
    "Vitals",
    "read_vitals",
    "start_beating",
]

BEAT_S = 0.5
# A process that is stopped and continued at once, as by a snapshot of it, is not lost.
STOPPED_PATIENCE_S = 1.5
# Without any processor time, while an answer is due; a busy machine gives a little to everybody.
IDLE_PATIENCE_S = 5.0
_STOPPED = "T"
# proc(5): the fields 3, 14, 15 and 24; the first behind the name is the third.
_STATE, _USER_TICKS, _SYSTEM_TICKS, _RESIDENT_PAGES = 0, 11, 12, 21
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


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


class HeartbeatMonitor:
    """Notices that a count has stopped; pure, and asked every `BEAT_S`."""

    def __init__(self, patience_s: float) -> None:
        """Takes how long a count may stand still."""
        self._patience_s = patience_s
        self._last = -1
        self._silent_s = 0.0

    def is_alive(self, count: int) -> bool:
        """Whether the count moved of late."""
        self._silent_s = 0.0 if count != self._last else self._silent_s + BEAT_S
        self._last = count
        return self._silent_s < self._patience_s


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the kernel says of a process.

    Attributes:
        is_stopped: By SIGSTOP or its kind.
        cpu_ticks: Processor time it has used, in the kernel's clock ticks.
        resident_bytes: Memory that it has in use, what it shares with others included.
    """

    is_stopped: bool
    cpu_ticks: int
    resident_bytes: int = 0


def read_vitals(pid: int) -> Vitals | None:
    """Asks the kernel about a process; None where it is gone, or where there is no /proc."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = line.rpartition(") ")[2].split()
    is_stopped = fields[_STATE] == _STOPPED
    cpu_ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
    return Vitals(is_stopped, cpu_ticks, int(fields[_RESIDENT_PAGES]) * _PAGE_BYTES)


class StallDetector:
    """Notices that a process is stopped, or does nothing; pure, and asked every `BEAT_S`."""

    def __init__(self) -> None:
        self._stopped_s = 0.0
        self._idle_s = 0.0
        self._cpu_ticks = -1

    def is_stalled(self, vitals: Vitals | None, *, is_due: bool) -> bool:
        """Whether the process is lost.

        Args:
            vitals: What the kernel says; None where it says nothing, which proves nothing.
            is_due: Whether the process owes an answer that takes processor time.
        """
        if vitals is None:
            return False
        self._stopped_s = self._stopped_s + BEAT_S if vitals.is_stopped else 0.0
        is_idle = is_due and vitals.cpu_ticks == self._cpu_ticks
        self._idle_s = self._idle_s + BEAT_S if is_idle else 0.0
        self._cpu_ticks = vitals.cpu_ticks
        return self._stopped_s >= STOPPED_PATIENCE_S or self._idle_s >= IDLE_PATIENCE_S
