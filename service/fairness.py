"""Whose turn it is: callers share what there is equally, by what is spent on each.

Start-time fair queueing (Goyal, Vin and Cheng 1996), pure: every caller has a virtual time that
grows by what is spent on it, and the lowest goes first. Who comes anew starts where the others
are, so that nobody saves up a claim by staying away.

As callers take turns, only as much of another caller's work is ahead of a picture as its own caller
has (`Backlog`): whoever floods the service is refused, and the others still come in. A picture in
tiles takes turns with the other pictures of its caller by the same rule (`Flow`).
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil

__all__ = [
    "LARGEST_FRACTION",
    "SLOTS_PER_FREE_SLOT",
    "Backlog",
    "FairScheduler",
    "Flow",
    "PictureScheduler",
    "fair_share",
    "measure_backlog",
    "retry_after_s",
]

# Where callers share something countable, each may hold this many times what is still free: one
# alone at most three quarters of all, two that flood it three sevenths each, and so on. However
# many flood it, one that comes anew finds room.
SLOTS_PER_FREE_SLOT = 3
# What waits ahead of a picture, by turns, may take this part of the time that it has left.
FAIR_FRACTION = 0.4
# That, the batch that runs, and the picture itself may take this part together. The rest is for
# what nobody could foresee: a slower batch, the answer's own way.
IN_TIME_FRACTION = 0.8
# A single picture may take this part of a request's whole time. While it runs, all others wait for
# it, and each of them still has time enough for itself.
LARGEST_FRACTION = 0.6
RETRY_AFTER_LIMITS_S = (1, 120)


def fair_share(total: int, num_held: int) -> int:
    """How much of `total` one caller may hold at present.

    Args:
        total: All there is.
        num_held: What all callers hold together.
    """
    return SLOTS_PER_FREE_SLOT * (total - num_held)


Flow = tuple[str, int | None]
"""A caller, and the number of one of its pictures in tiles; None for all that are whole."""


class FairScheduler:
    """The virtual times of all callers; there are as many as there are keys."""

    def __init__(self) -> None:
        self._now = 0
        self._times: dict[Hashable, int] = {}

    def arrive(self, caller: Hashable) -> None:
        """Says that a caller who had nothing waiting has something now."""
        self._times[caller] = max(self._times.get(caller, 0), self._now)

    def keep(self, callers: Collection[Hashable]) -> None:
        """Forgets all others, who will not come again."""
        self._times = {caller: time for caller, time in self._times.items() if caller in callers}

    def spend(self, shares: Iterable[tuple[Hashable, int]]) -> None:
        """Notes what begins now.

        Args:
            shares: Caller and cost of each part, in any unit that is always the same.
        """
        parts = list(shares)
        self._now = max(self._now, min(self.virtual_time(caller) for caller, _ in parts))
        for caller, cost in parts:
            self._times[caller] = self.virtual_time(caller) + cost

    def virtual_time(self, caller: Hashable) -> int:
        """What orders callers: the lowest goes first."""
        return self._times.get(caller, self._now)


class PictureScheduler:
    """Callers take turns, and in those of a caller its flows do.

    So one large picture holds up the small ones of its own caller by a tile, and they it.
    """

    def __init__(self) -> None:
        self._callers = FairScheduler()
        self._flows: dict[str, FairScheduler] = defaultdict(FairScheduler)

    def arrive(self, flow: Flow, waiting: Collection[Flow]) -> None:
        """Says that a flow has something more.

        Args:
            flow: Which.
            waiting: All flows that had something waiting before.
        """
        caller, _ = flow
        if all(other != caller for other, _ in waiting):
            self._callers.arrive(caller)
        if flow not in waiting:
            flows = self._flows[caller]
            flows.keep(waiting)
            flows.arrive(flow)

    def spend(self, shares: Iterable[tuple[Flow, int]]) -> None:
        """Notes what begins now; see `FairScheduler.spend`."""
        parts = list(shares)
        self._callers.spend((caller, cost) for (caller, _), cost in parts)
        for caller in {caller for (caller, _), _ in parts}:
            self._flows[caller].spend(part for part in parts if part[0][0] == caller)

    def virtual_time(self, flow: Flow) -> tuple[int, int]:
        """What orders flows: the lowest goes first."""
        caller, _ = flow
        return self._callers.virtual_time(caller), self._flows[caller].virtual_time(flow)


@dataclass(frozen=True, slots=True)
class Backlog:
    """How long the work takes that is ahead of a picture.

    Attributes:
        running_s: What is left of the batches that run, and the time without any worker.
        fair_s: What is served before it, as callers take turns.
    """

    running_s: float
    fair_s: float

    def exceeds_deadline(self, own_s: float, left_s: float) -> bool:
        """Whether a picture would be answered too late, and had better not join.

        Args:
            own_s: What it takes itself.
            left_s: Time until its answer is worthless.
        """
        in_all_s = self.running_s + self.fair_s + own_s
        return self.fair_s > FAIR_FRACTION * left_s or in_all_s > IN_TIME_FRACTION * left_s


def measure_backlog(
    work: Mapping[Flow, float],
    newcomer: Flow,
    running_s: float,
    seconds_per_pixel: float,
    own_work: float = 0,
) -> Backlog:
    """Measures the work ahead of a picture, or ahead of the last of its tiles.

    Args:
        work: What waits or is about to, by flow: padded pixels, as often as they pass the network.
        newcomer: Which flow the picture belongs to.
        running_s: What is left of the batches that run.
        seconds_per_pixel: Of all workers together.
        own_work: The same of all tiles of the picture but the last.
    """
    caller, _ = newcomer
    waiting: dict[str, float] = defaultdict(float)
    for (other, _), number in work.items():
        waiting[other] += number
    # With nothing of its own in line it waits for the running batch alone.
    own = work.get(newcomer, 0) + own_work
    flows = [n for flow, n in work.items() if flow != newcomer and flow[0] == caller]
    of_caller = _ahead(own, flows)
    others = [number for other, number in waiting.items() if other != caller]
    fair = _ahead(of_caller, others) - own_work
    return Backlog(running_s, seconds_per_pixel * fair)


def _ahead(own: float, others: Iterable[float]) -> float:
    """What is served until all of one's own is, where each in turn gets as much."""
    return own + sum(min(number, own) for number in others)


def retry_after_s(depth: int, images_per_second: float) -> int:
    """Whole seconds until the work that is ahead of a caller should be done.

    Args:
        depth: Images or requests ahead.
        images_per_second: Measured; 0 when unknown.
    """
    lowest, highest = RETRY_AFTER_LIMITS_S
    if images_per_second <= 0:
        return lowest
    return min(highest, max(lowest, ceil(depth / images_per_second)))
