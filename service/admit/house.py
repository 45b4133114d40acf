"""How many requests are inside; a slot is reserved before a body is even read."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

from service.admit.ceiling import Ceiling
from service.errors import KeyBusy, Overloaded, ShuttingDown
from service.queueing.backlog import Ahead
from service.queueing.costs import retry_after_s

__all__ = ["House", "HouseLimits", "Slot"]

# Where callers share the house, each may hold this many times the slots that are still free: one
# alone at most three quarters of all, two that flood it three sevenths each, and so on. However
# many flood it, one that comes anew finds room.
SLOTS_PER_FREE_SLOT = 3


@dataclass(frozen=True, slots=True)
class HouseLimits:
    """How many may be inside.

    Attributes:
        max_requests: Most requests at once.
        is_shared: Says whether there is more than one caller who could come; keys come and go.
        deadline_s: What a newcomer has, all in all.
    """

    max_requests: int
    is_shared: Callable[[], bool] = lambda: False
    deadline_s: float = 30.0


class Slot:
    """One request's place in the house; it is on the way until its image joins the line."""

    def __init__(self, house: "House", caller: str) -> None:
        self._house = house
        self._caller = caller
        self._arriving = True
        self._inside = True

    def arrive(self) -> None:
        """Says that the image is in line, or that none will come."""
        if self._arriving:
            self._arriving = False
            self._house.arriving[self._caller] -= 1
            self._house.on_change()

    def leave(self) -> None:
        """Gives the place back; a second time does nothing."""
        if self._inside:
            self._inside = False
            self.arrive()
            self._house.inside[self._caller] -= 1
            self._house.left.set()
            self._house.on_change()


class House:
    """Counts requests, refuses when full or closing; all methods belong to the event loop."""

    def __init__(
        self,
        limits: HouseLimits,
        images_per_second: Callable[[], float],
        measure_ahead: Callable[[str, Mapping[str, int]], Ahead],
    ) -> None:
        """Takes the bounds.

        Args:
            limits: How many may be inside.
            images_per_second: The measured rate, for Retry-After.
            measure_ahead: Measures the work ahead of a caller, given who is on the way.
        """
        self.inside: Counter[str] = Counter()
        self.arriving: Counter[str] = Counter()
        self.is_draining = False
        self.left = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._limits = limits
        self._ceiling = Ceiling(limits.max_requests, limits.deadline_s)
        self._images_per_second = images_per_second
        self._measure_ahead = measure_ahead

    @property
    def num_inside(self) -> int:
        """Requests inside."""
        return self.inside.total()

    @property
    def num_arriving(self) -> int:
        """Those of them whose image is not in line yet."""
        return self.arriving.total()

    def enter(self, caller: str, max_per_caller: int | None = None) -> Slot:
        """Takes a place.

        Args:
            caller: Who comes.
            max_per_caller: Most places that it may hold; None for no bound of its own.

        Raises:
            ShuttingDown: No new requests are taken.
            Overloaded: The house is full, or so much is ahead that the answer would be late.
            KeyBusy: The caller holds as many places as it may.
        """
        if self.is_draining:
            raise ShuttingDown
        if self.num_inside >= self._ceiling.num_requests:
            raise Overloaded(retry_after_s=self._wait_s(self.num_inside))
        if self.inside[caller] >= self._most_slots(max_per_caller):
            raise KeyBusy(retry_after_s=self._wait_s(self.inside[caller]))
        ahead = self._measure_ahead(caller, self.arriving)
        if ahead.bars_arrival(self._limits.deadline_s):
            raise Overloaded(retry_after_s=max(1, ceil(ahead.fair_s)))
        self.inside[caller] += 1
        self.arriving[caller] += 1
        self.on_change()
        return Slot(self, caller)

    def learn(self, seconds: float, *, was_late: bool) -> None:
        """Learns from a request that is about to leave how many may be inside.

        Args:
            seconds: What it took.
            was_late: Whether its deadline passed before its answer came.
        """
        if was_late:
            self._ceiling.note_late()
        else:
            self._ceiling.note_answer(seconds, self.num_inside)

    async def wait_until_empty(self) -> None:
        """Waits until the last request has left."""
        while self.num_inside:
            self.left.clear()
            await self.left.wait()

    def _most_slots(self, max_per_caller: int | None) -> int:
        """How many slots one caller may hold at present."""
        most = self._ceiling.num_requests
        if self._limits.is_shared():
            most = SLOTS_PER_FREE_SLOT * (most - self.num_inside)
        return min(most, max_per_caller or most)

    def _wait_s(self, depth: int) -> int:
        return retry_after_s(depth, self._images_per_second())
