"""What requests inside hold: a slot, reserved before their body is even read, and bytes."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from codefend.service.admit.ceiling import Ceilings
from codefend.service.admit.memory import MemoryBudget
from codefend.service.errors import KeyBusy, Overloaded, ShuttingDown
from codefend.service.fairness import fair_share
from codefend.service.queueing.costs import retry_after_s

__all__ = ["House", "HouseLimits", "Slot"]


@dataclass(frozen=True, slots=True)
class HouseLimits:
    """How many may be inside.

    Attributes:
        max_requests: Most requests at once.
        is_shared: Says whether there is more than one caller who could come; keys come and go.
        deadline_s: What a newcomer has, all in all.
        max_bytes: Most bytes of their bodies, pictures and answers together.
    """

    max_requests: int
    is_shared: Callable[[], bool] = lambda: False
    deadline_s: float = 30.0
    max_bytes: int = 1 << 31


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

    def __init__(self, limits: HouseLimits, images_per_second: Callable[[], float]) -> None:
        """Takes the bounds.

        Args:
            limits: How many may be inside.
            images_per_second: The measured rate, for Retry-After.
        """
        self.inside: Counter[str] = Counter()
        self.arriving: Counter[str] = Counter()
        self.is_draining = False
        self.left = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self.memory = MemoryBudget(limits.max_bytes, limits.is_shared)
        self._limits = limits
        self._ceilings = Ceilings(limits.max_requests, limits.deadline_s)
        self._images_per_second = images_per_second

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
            Overloaded: The house is full, or as full as the model behind it can take.
            KeyBusy: The caller holds as many places as it may.
        """
        if self.is_draining:
            raise ShuttingDown
        num_held = self.inside[caller]
        if self.num_inside >= self._ceilings.most_of_all(caller, num_held):
            raise Overloaded(retry_after_s=self._wait_s(self.num_inside))
        if num_held >= self._most_slots(max_per_caller):
            raise KeyBusy(retry_after_s=self._wait_s(num_held))
        if num_held >= self._ceilings.most_of(caller):
            raise Overloaded(retry_after_s=self._wait_s(num_held))
        self.inside[caller] += 1
        self.arriving[caller] += 1
        self.on_change()
        return Slot(self, caller)

    def learn(self, caller: str, seconds: float, *, was_late: bool) -> None:
        """Learns from a request that is about to leave how many may be inside.

        Args:
            caller: Whose it is.
            seconds: What it took.
            was_late: Whether its deadline passed before its answer came.
        """
        if was_late:
            self._ceilings.note_late(caller)
        else:
            self._ceilings.note_answer(caller, seconds, self.inside[caller], self.num_inside)

    async def wait_until_empty(self) -> None:
        """Waits until the last request has left."""
        while self.num_inside:
            self.left.clear()
            await self.left.wait()

    def _most_slots(self, max_per_caller: int | None) -> int:
        """How many slots one caller may hold at present."""
        most = self._limits.max_requests
        if self._limits.is_shared():
            most = fair_share(most, self.num_inside)
        return min(most, max_per_caller or most)

    def _wait_s(self, depth: int) -> int:
        return retry_after_s(depth, self._images_per_second())
