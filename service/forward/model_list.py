"""The upstream's list of models: asked for once, however many callers want it at a time."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from codefend.service.errors import DeadlineExceeded

__all__ = ["ModelList"]


class ModelList:
    """Keeps the list for a while; all methods belong to the event loop."""

    def __init__(
        self,
        fetch: Callable[[], Coroutine[Any, Any, bytes]],
        lifetime_s: float,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes where the list comes from; nothing is asked yet.

        Args:
            fetch: Asks the upstream.
            lifetime_s: How long an answer is kept; errors are not.
            timeout_s: Time for the upstream to answer, whoever waits.
            clock: Seconds.
        """
        self._fetch = fetch
        self._lifetime_s = lifetime_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._answer = b""
        self._fresh_until_s = float("-inf")
        self._fetching: asyncio.Task[bytes] | None = None

    async def get(self) -> bytes:
        """The list as the upstream writes it, at most so old.

        Callers who come while it is asked for wait for the same answer. One that leaves ends its
        own wait alone.

        Raises:
            DeadlineExceeded: The upstream did not answer in time; and whatever `fetch` raises.
        """
        if self._clock() < self._fresh_until_s:
            return self._answer
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_once())
            self._fetching.add_done_callback(self._end)
        return await asyncio.shield(self._fetching)

    async def close(self) -> None:
        """Asks no longer."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    async def _fetch_once(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._answer = await self._fetch()
        except TimeoutError as error:
            raise DeadlineExceeded from error
        self._fresh_until_s = self._clock() + self._lifetime_s
        return self._answer

    def _end(self, task: asyncio.Task[bytes]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # looked at: everybody who waited may have left
