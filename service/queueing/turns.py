"""Whose turn it is: callers share the purifier equally, by the pixels it spends on each.

Start-time fair queueing (Goyal, Vin and Cheng 1996), pure: every caller has a tag that grows by the
pixels spent on it, and the lowest tag goes first. Who comes anew starts where the others are, so
that nobody saves up a claim by staying away.
"""

from collections.abc import Iterable

__all__ = ["Turns"]


class Turns:
    """The tags of all callers; there are as many as there are keys."""

    def __init__(self) -> None:
        self._now = 0
        self._tags: dict[str, int] = {}

    def arrive(self, caller: str) -> None:
        """Says that a caller who had nothing in line has something now."""
        self._tags[caller] = max(self._tags.get(caller, 0), self._now)

    def spend(self, shares: Iterable[tuple[str, int]]) -> None:
        """Notes a batch.

        Args:
            shares: Caller and padded pixels of each of its images.
        """
        images = list(shares)
        self._now = max(self._now, min(self.tag_of(caller) for caller, _ in images))
        for caller, num_pixels in images:
            self._tags[caller] = self.tag_of(caller) + num_pixels

    def tag_of(self, caller: str) -> int:
        """What orders callers: the lowest goes first."""
        return self._tags.get(caller, self._now)
