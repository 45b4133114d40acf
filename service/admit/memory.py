"""How many bytes requests hold together: bodies, pictures and answers, by caller.

A request is refused where its bytes would be too many; it is never begun on memory that is not
there. As with slots, a caller may hold several times what is free: others find room.
"""

from collections import Counter
from collections.abc import Callable

from codefend.service.errors import OutOfMemory
from codefend.service.fairness import fair_share

__all__ = ["MemoryBudget"]

RETRY_AFTER_S = 2


class MemoryBudget:
    """Counts bytes and refuses more than there may be; all methods belong to the event loop."""

    def __init__(self, max_bytes: int, is_shared: Callable[[], bool] = lambda: False) -> None:
        """Takes the bound.

        Args:
            max_bytes: Most bytes of all requests together.
            is_shared: Says whether there is more than one caller who could come.
        """
        self._max_bytes = max_bytes
        self._is_shared = is_shared
        self._held: Counter[str] = Counter()

    @property
    def num_held(self) -> int:
        """Bytes that all requests hold."""
        return self._held.total()

    def take(self, caller: str, num_bytes: int) -> None:
        """Adds to what a caller's requests hold.

        Raises:
            OutOfMemory: It would be too much; nothing was added.
        """
        most = self._max_bytes - self.num_held
        if self._is_shared():
            share = fair_share(self._max_bytes, self.num_held + num_bytes)
            most = min(most, share - self._held[caller])
        if num_bytes > most:
            raise OutOfMemory(retry_after_s=RETRY_AFTER_S)
        self.note(caller, num_bytes)

    def note(self, caller: str, num_bytes: int) -> None:
        """Adds what is held already, as an answer that is being sent, however much it is."""
        self._held[caller] += num_bytes

    def give(self, caller: str, num_bytes: int) -> None:
        """Takes away what a caller's requests hold no more."""
        self._held[caller] -= num_bytes
        if not self._held[caller]:
            del self._held[caller]
