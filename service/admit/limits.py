"""What is limited before a request is let in: its key's rate, requests at once, and memory.

`TokenBucket` bounds what a key sends a minute. `ConcurrencyLimiter` bounds how many requests are in
flight: by what is set, by each caller's share of it, and by what was answered in time of late.
`MemoryBudget` bounds the bytes of bodies, pictures and answers: a request is refused where its
bytes would be too many; it is never begun on memory that is not there.

What the purifier can take is known in advance; what the model behind the service can take is not.
If it is asked for too much at once every answer comes late, and none is of use to anybody. So the
number of requests at once adapts (`AdaptiveConcurrencyLimit`). Lateness is a caller's own: who asks
for slow answers lowers nobody's limit but its own. Only callers that are late although hardly
anything of theirs is inside lower the one that holds for all together, and a caller that is in time
keeps a few places under that too.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

from codefend.service.context import RequestsInFlight, Slot
from codefend.service.errors import KeyBusy, OutOfMemory, Overloaded, RateLimited, ShuttingDown
from codefend.service.fairness import fair_share, retry_after_s

__all__ = [
    "AdaptiveConcurrencyLimit",
    "AdaptiveLimits",
    "ConcurrencyLimiter",
    "ConcurrencyLimits",
    "MemoryBudget",
    "TokenBucket",
]

SECONDS_PER_MINUTE = 60.0
RETRY_AFTER_S = 2
# So many late answers, and for each one in time, are no longer the fault of single requests. Where
# they are nevertheless, as most answers are fast, the limit stays above what is needed.
FEWEST_LATE = 4
LATE_FOR_EACH_IN_TIME = 1 / 20
# Of as many as were answered within one deadline, this part is let in at once: by Little's law each
# then takes this part of its time.
FRACTION_IN_TIME = 0.6
# It rises while answers take less than this part of their time, and half a request for each.
FRACTION_FAST = 0.5
RISE = 0.5
# Places that a caller keeps whose answers were all in time of late, however late others are.
FLOOR = 2


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at_s: float


class TokenBucket:
    """Tokens by caller; a full bucket holds a minute's worth, and every request costs one.

    `per_minute` is the caller's rate at present; None for any number.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def check(self, caller: str, per_minute: int | None) -> None:
        """Lets a caller pass who has a token; it is not spent yet.

        Raises:
            RateLimited: There is none, and Retry-After says when there will be.
        """
        if per_minute is None:
            return
        missing = 1 - self._fill(caller, per_minute).tokens
        if missing > 0:
            wait_s = missing * SECONDS_PER_MINUTE / per_minute
            raise RateLimited(retry_after_s=max(1, ceil(wait_s)))

    def spend(self, caller: str, per_minute: int | None) -> None:
        """Takes a token, now that the request was let in: one that was refused costs nothing."""
        if per_minute is not None:
            self._fill(caller, per_minute).tokens -= 1

    def _fill(self, caller: str, per_minute: int) -> _Bucket:
        now_s = self._clock()
        bucket = self._buckets.setdefault(caller, _Bucket(per_minute, now_s))
        gained = (now_s - bucket.filled_at_s) * per_minute / SECONDS_PER_MINUTE
        bucket.tokens = min(per_minute, bucket.tokens + gained)
        bucket.filled_at_s = now_s
        return bucket


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


class AdaptiveConcurrencyLimit:
    """Falls to what was answered in time when much was late, and rises while answers are fast."""

    def __init__(
        self, most: int, deadline_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins at its highest.

        Args:
            most: Its highest.
            deadline_s: What every request has.
            clock: Seconds.
        """
        self._most = most
        self._deadline_s = deadline_s
        self._clock = clock
        self._limit = float(most)
        self._fell_at_s = clock() - deadline_s
        self._ends: deque[tuple[float, bool]] = deque()

    @property
    def num_requests(self) -> int:
        """Most requests inside at present."""
        return int(self._limit)

    @property
    def has_settled(self) -> bool:
        """Whether all have left that were let in before it fell: they tell nothing new."""
        return self._clock() - self._fell_at_s >= self._deadline_s

    @property
    def was_late(self) -> bool:
        """Whether any answer was late within the last deadline's time."""
        self._forget()
        return any(was_late for _, was_late in self._ends)

    def note_answer(self, seconds: float, num_inside: int) -> None:
        """Says that a request was answered in time, after so long, and how many were inside."""
        self._note(was_late=False)
        # Where nobody is refused there is nothing to learn.
        if seconds <= FRACTION_FAST * self._deadline_s and num_inside >= self._limit / 2:
            self._limit = min(self._most, self._limit + RISE)

    def note_late(self) -> None:
        """Says that a request's deadline passed before its answer came."""
        self._note(was_late=True)
        now_s = self._clock()
        num_late = sum(was_late for _, was_late in self._ends)
        num_in_time = len(self._ends) - num_late
        is_too_much = num_late >= max(FEWEST_LATE, LATE_FOR_EACH_IN_TIME * num_in_time)
        if self.has_settled and is_too_much:
            self._limit = min(self._limit, max(1.0, FRACTION_IN_TIME * num_in_time))
            self._fell_at_s = now_s

    def _note(self, *, was_late: bool) -> None:
        self._ends.append((self._clock(), was_late))
        self._forget()

    def _forget(self) -> None:
        since_s = self._clock() - self._deadline_s
        while self._ends and self._ends[0][0] < since_s:
            self._ends.popleft()


class AdaptiveLimits:
    """One limit for each caller, and one over all of them."""

    def __init__(
        self, most: int, deadline_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins at their highest; the arguments are those of `AdaptiveConcurrencyLimit`."""
        self._make: Callable[[], AdaptiveConcurrencyLimit] = partial(
            AdaptiveConcurrencyLimit, most, deadline_s, clock
        )
        self._most = most
        self._of_all = self._make()
        self._of: dict[str, AdaptiveConcurrencyLimit] = {}

    def most_of(self, caller: str) -> int:
        """Most requests of one caller inside."""
        return self._of[caller].num_requests if caller in self._of else self._most

    def most_of_all(self, caller: str, num_held: int) -> int:
        """Most requests inside of all callers, as it holds for one of them.

        Args:
            caller: Who comes.
            num_held: Places that it holds already.
        """
        was_late = caller in self._of and self._of[caller].was_late
        has_floor = num_held < FLOOR and not was_late
        return self._most if has_floor else self._of_all.num_requests

    def note_answer(self, caller: str, seconds: float, num_held: int, num_inside: int) -> None:
        """Says that a request was answered in time, and how many of its caller's were inside."""
        self._find(caller).note_answer(seconds, num_held)
        self._of_all.note_answer(seconds, num_inside)

    def note_late(self, caller: str) -> None:
        """Says that a request's deadline passed before its answer came."""
        limit = self._find(caller)
        has_no_more_to_give = limit.num_requests == 1 and limit.has_settled
        limit.note_late()
        if has_no_more_to_give:
            self._of_all.note_late()

    def _find(self, caller: str) -> AdaptiveConcurrencyLimit:
        return self._of.setdefault(caller, self._make())


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """How many may be inside.

    Attributes:
        max_requests: Most requests at once.
        is_shared: Says whether there is more than one caller who could come; keys come and go.
        deadline_s: What a newcomer has, all in all.
    """

    max_requests: int
    is_shared: Callable[[], bool] = lambda: False
    deadline_s: float = 30.0


class ConcurrencyLimiter:
    """Refuses requests when full or closing; all methods belong to the event loop."""

    def __init__(
        self,
        limits: ConcurrencyLimits,
        in_flight: RequestsInFlight,
        images_per_second: Callable[[], float],
    ) -> None:
        """Takes the bounds.

        Args:
            limits: How many may be inside.
            in_flight: The ledger of those that are.
            images_per_second: The measured rate, for Retry-After.
        """
        self.is_draining = False
        self._limits = limits
        self._in_flight = in_flight
        self._adaptive = AdaptiveLimits(limits.max_requests, limits.deadline_s)
        self._images_per_second = images_per_second

    def enter(self, caller: str, max_per_caller: int | None = None) -> Slot:
        """Takes a place.

        Args:
            caller: Who comes.
            max_per_caller: Most places that it may hold; None for no bound of its own.

        Raises:
            ShuttingDown: No new requests are taken.
            Overloaded: As many are inside as may be, or as the model behind the service can take.
            KeyBusy: The caller holds as many places as it may.
        """
        if self.is_draining:
            raise ShuttingDown
        num_held, num_inside = self._in_flight.inside[caller], self._in_flight.num_inside
        if num_inside >= self._adaptive.most_of_all(caller, num_held):
            raise Overloaded(retry_after_s=self._wait_s(num_inside))
        if num_held >= self._most_slots(max_per_caller):
            raise KeyBusy(retry_after_s=self._wait_s(num_held))
        if num_held >= self._adaptive.most_of(caller):
            raise Overloaded(retry_after_s=self._wait_s(num_held))
        return self._in_flight.add(caller)

    def learn(self, caller: str, seconds: float, *, was_late: bool) -> None:
        """Learns from a request that is about to leave how many may be inside.

        Args:
            caller: Whose it is.
            seconds: What it took.
            was_late: Whether its deadline passed before its answer came.
        """
        if was_late:
            self._adaptive.note_late(caller)
        else:
            num_held, num_inside = self._in_flight.inside[caller], self._in_flight.num_inside
            self._adaptive.note_answer(caller, seconds, num_held, num_inside)

    def _most_slots(self, max_per_caller: int | None) -> int:
        """How many slots one caller may hold at present."""
        most = self._limits.max_requests
        if self._limits.is_shared():
            most = fair_share(most, self._in_flight.num_inside)
        return min(most, max_per_caller or most)

    def _wait_s(self, depth: int) -> int:
        return retry_after_s(depth, self._images_per_second())
