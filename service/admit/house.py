"""How many requests are inside; a slot is reserved before a body is even read."""

import asyncio
from collections.abc import Callable

from service.errors import Overloaded, ShuttingDown
from service.queueing.costs import retry_after_s

__all__ = ["House", "Slot"]


class Slot:
    """One request's place in the house; it is on the way until its image joins the line."""

    def __init__(self, house: "House") -> None:
        self._house = house
        self._arriving = True
        self._inside = True

    def arrive(self) -> None:
        """Says that the image is in line, or that none will come."""
        if self._arriving:
            self._arriving = False
            self._house.num_arriving -= 1
            self._house.on_change()

    def leave(self) -> None:
        """Gives the place back; a second time does nothing."""
        if self._inside:
            self._inside = False
            self.arrive()
            self._house.num_inside -= 1
            self._house.left.set()
            self._house.on_change()


class House:
    """Counts requests, refuses when full or closing; all methods belong to the event loop."""

    def __init__(self, max_requests: int, images_per_second: Callable[[], float]) -> None:
        """Takes the bound.

        Args:
            max_requests: Most requests inside.
            images_per_second: The measured rate, for Retry-After.
        """
        self.num_inside = 0
        self.num_arriving = 0
        self.is_draining = False
        self.left = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._max_requests = max_requests
        self._images_per_second = images_per_second

    def enter(self) -> Slot:
        """Takes a place.

        Raises:
            ShuttingDown: No new requests are taken.
            Overloaded: The house is full.
        """
        if self.is_draining:
            raise ShuttingDown
        if self.num_inside >= self._max_requests:
            wait_s = retry_after_s(self.num_inside, self._images_per_second())
            raise Overloaded(retry_after_s=wait_s)
        self.num_inside += 1
        self.num_arriving += 1
        self.on_change()
        return Slot(self)

    async def wait_until_empty(self) -> None:
        """Waits until the last request has left."""
        while self.num_inside:
            self.left.clear()
            await self.left.wait()
