"""Whose turn it is: callers share what there is equally, by what is spent on each.

Start-time fair queueing (Goyal, Vin and Cheng 1996), pure: every caller has a virtual time that
grows by what is spent on it, and the lowest goes first. Who comes anew starts where the others
are, so that nobody saves up a claim by staying away.
"""

from collections.abc import Iterable

__all__ = ["SLOTS_PER_FREE_SLOT", "FairScheduler", "fair_share"]

# Where callers share something countable, each may hold this many times what is still free: one
# alone at most three quarters of all, two that flood it three sevenths each, and so on. However
# many flood it, one that comes anew finds room.
SLOTS_PER_FREE_SLOT = 3


def fair_share(total: int, num_held: int) -> int:
    """How much of `total` one caller may hold at present.

    Args:
        total: All there is.
        num_held: What all callers hold together.
    """
    return SLOTS_PER_FREE_SLOT * (total - num_held)


class FairScheduler:
    """The virtual times of all callers; there are as many as there are keys."""

    def __init__(self) -> None:
        self._now = 0
        self._times: dict[str, int] = {}

    def arrive(self, caller: str) -> None:
        """Says that a caller who had nothing waiting has something now."""
        self._times[caller] = max(self._times.get(caller, 0), self._now)

    def spend(self, shares: Iterable[tuple[str, int]]) -> None:
        """Notes what begins now.

        Args:
            shares: Caller and cost of each part, in any unit that is always the same.
        """
        parts = list(shares)
        self._now = max(self._now, min(self.virtual_time(caller) for caller, _ in parts))
        for caller, cost in parts:
            self._times[caller] = self.virtual_time(caller) + cost

    def virtual_time(self, caller: str) -> int:
        """What orders callers: the lowest goes first."""
        return self._times.get(caller, self._now)
