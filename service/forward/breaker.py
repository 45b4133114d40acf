"""When not to ask the model behind the service: a circuit breaker, as pure policy.

The pattern is Nygard's ("Release It!", 2007, ch. 5; Fowler's "CircuitBreaker", 2014, draws it):
closed, all may ask; open, nobody may; half-open, a few may try. It opens

- when enough requests failed within a sliding window of time *and* more than half of those that
  ended in it did. A share, and not a run of failures alone, because one of several replicas behind
  one address may answer while the others are dead, and one lucky answer must not hide that; and a
  least number, because half of two requests says nothing;
- or when so many failed in a row, however long that took: where each request only fails at its
  deadline, and few are sent, a window would never see enough of them.

Each caller has one vote on that, by the share of its own: a key whose requests make the model fail
does not shut out the others while theirs are answered. A request that was merely late counts only
if nothing was answered meanwhile: a model that answers others is not broken, but was asked for
much. Where there are several callers, the lateness of one alone never opens it: it may have asked
for what takes long, and its own ceiling falls for that (`admit/adaptive.py`).

The pause before a trial doubles for each trial that fails, up to a ceiling.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import ceil, inf

from codefend.service.errors import UpstreamDown
from codefend.service.metrics import Metrics
from codefend.service.settings import Settings

__all__ = ["Breaker", "BreakerLimits", "BreakerPermit", "BreakerState", "Verdict", "make_breaker"]

logger = logging.getLogger(__name__)

FAILING_SHARE = 0.5


class BreakerState(IntEnum):
    """What the gauge `codefend_upstream_breaker_state` shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Verdict(Enum):
    """What a request says of the upstream when it is over."""

    ANSWERED = "answered"  # be it with a refusal
    FAILED = "failed"
    LATE = "late"  # its fault only if it answered nobody meanwhile
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When it opens, and for how long.

    Attributes:
        num_failures: Fewest failures that open it; 0: it never opens.
        window_s: How long an outcome counts.
        pause_s: Time from its opening to the first trial.
        max_pause_s: Longest pause, however many trials have failed.
        num_trials: Requests that try at once, and that must succeed before it closes.
    """

    num_failures: int
    window_s: float = 60.0
    pause_s: float = 5.0
    max_pause_s: float = 60.0
    num_trials: int = 2


@dataclass(slots=True, eq=False)
class BreakerPermit:
    """One request's permission to ask; settled once, or left, which tells the breaker nothing."""

    breaker: "Breaker"
    caller: str
    deadline_s: float
    era: int
    began_at_s: float
    is_settled: bool = False

    def begin(self) -> None:
        """Says that the upstream is asked from now on.

        Raises:
            UpstreamDown: The breaker has opened since the permit was taken.
        """
        self.began_at_s = self.breaker.begin(self)

    def asked_for_s(self) -> float:
        """Seconds for which the upstream has had the request by now."""
        return self.breaker.clock() - self.began_at_s

    def show_life(self) -> None:
        """Says that a stream has begun to flow: a trial needs no more to know than that."""
        self.breaker.note_life(self)

    def settle(self, verdict: Verdict, retry_after_s: float = 0.0) -> None:
        """Says what came of it, and how long the upstream asks to be left alone, if it does."""
        is_excused = verdict is Verdict.LATE and self.breaker.answered_at_s >= self.began_at_s
        if verdict is Verdict.NOTHING or is_excused:
            self.leave()
        else:
            self.breaker.settle(self, verdict, retry_after_s)

    def leave(self) -> None:
        """Gives up a trial's place; after it was settled it does nothing more."""
        self.breaker.leave(self)


class Breaker:
    """Counts outcomes; all methods belong to the event loop."""

    def __init__(
        self,
        limits: BreakerLimits,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerState, float], None] = lambda _state, _pause_s: None,
        is_shared: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begins closed.

        Args:
            limits: When it opens.
            clock: Seconds.
            on_change: Called with each new state, and the pause if it is open.
            is_shared: Says whether there is more than one caller who could ask.
        """
        self.state = BreakerState.CLOSED
        self.answered_at_s = -inf
        self._limits = limits
        self.clock = clock
        self._on_change = on_change
        self._is_shared = is_shared
        # Outcomes of what was asked in an earlier state say nothing about this one.
        self._era = 0
        self._ends: deque[tuple[float, str, Verdict]] = deque()
        self._in_a_row: list[tuple[str, Verdict]] = []
        self._num_openings = 0
        self._opens_at_s = 0.0
        self._trials: set[BreakerPermit] = set()
        self._num_passed = 0

    @classmethod
    def aside(cls, deadline_s: float) -> BreakerPermit:
        """A permit of which no breaker learns anything."""
        never = cls(BreakerLimits(num_failures=0))
        return never.enter(deadline_s=deadline_s)

    def check(self) -> None:
        """Takes no place.

        Raises:
            UpstreamDown: It would be of no use to ask now; the error says when it may be.
        """
        self._advance()
        if self.state is BreakerState.OPEN:
            raise UpstreamDown(retry_after_s=max(1, ceil(self._opens_at_s - self.clock())))
        if self.state is BreakerState.HALF_OPEN and not self._has_place():
            raise UpstreamDown(retry_after_s=max(1, ceil(self._limits.pause_s)))

    def enter(self, caller: str = "", deadline_s: float = inf) -> BreakerPermit:
        """Takes a permit; half-open, that is a trial's place until the permit is settled or left.

        Args:
            caller: Who asks.
            deadline_s: When the answer is worthless, on the clock.

        Raises:
            UpstreamDown: As in `check`.
        """
        self.check()
        permit = BreakerPermit(self, caller, deadline_s, self._era, self.clock())
        if self.state is BreakerState.HALF_OPEN:
            self._trials.add(permit)
        return permit

    def begin(self, permit: BreakerPermit) -> float:
        """Seconds on the clock; see `BreakerPermit.begin`."""
        if permit.era != self._era:
            self.check()
            permit.era = self._era
            if self.state is BreakerState.HALF_OPEN:
                self._trials.add(permit)
        return self.clock()

    def note_life(self, permit: BreakerPermit) -> None:
        """See `BreakerPermit.show_life`."""
        self.answered_at_s = self.clock()
        if permit in self._trials:
            permit.settle(Verdict.ANSWERED)

    def settle(self, permit: BreakerPermit, end: Verdict, retry_after_s: float = 0.0) -> None:
        """Learns from one request; see `BreakerPermit`."""
        if end is Verdict.ANSWERED:
            self.answered_at_s = self.clock()
        is_trial = permit in self._trials
        self._trials.discard(permit)
        if permit.is_settled or permit.era != self._era or not self._limits.num_failures:
            return
        permit.is_settled = True
        if is_trial:
            self._learn_from_trial(end, retry_after_s)
        else:
            self._learn(permit.caller, end, retry_after_s)

    def leave(self, permit: BreakerPermit) -> None:
        """See `BreakerPermit.leave`."""
        permit.is_settled = True
        self._trials.discard(permit)

    def _learn(self, caller: str, end: Verdict, retry_after_s: float) -> None:
        now_s = self.clock()
        self._ends.append((now_s, caller, end))
        while self._ends[0][0] < now_s - self._limits.window_s:
            self._ends.popleft()
        if end is Verdict.ANSWERED:
            self._in_a_row.clear()
            return
        # The last of them are enough to know.
        self._in_a_row = [*self._in_a_row[1 - self._limits.num_failures :], (caller, end)]
        if self._is_broken():
            self._open(retry_after_s)

    def _is_broken(self) -> bool:
        fewest = self._limits.num_failures
        if len(self._in_a_row) >= fewest and not self._is_one_callers_lateness(self._in_a_row):
            return True
        failures = [(caller, end) for _, caller, end in self._ends if end is not Verdict.ANSWERED]
        if self._is_one_callers_lateness(failures):
            return False
        asked = Counter(caller for _, caller, _ in self._ends)
        failed = Counter(caller for caller, _ in failures)
        num_votes = sum(failed[caller] > FAILING_SHARE * asked[caller] for caller in asked)
        return failed.total() >= fewest and num_votes > FAILING_SHARE * len(asked)

    def _is_one_callers_lateness(self, failures: Sequence[tuple[str, Verdict]]) -> bool:
        is_lateness = all(end is Verdict.LATE for _, end in failures)
        return self._is_shared() and is_lateness and len({caller for caller, _ in failures}) == 1

    def _learn_from_trial(self, end: Verdict, retry_after_s: float) -> None:
        if end is not Verdict.ANSWERED:
            self._open(retry_after_s)
            return
        self._num_passed += 1
        if self._num_passed >= self._limits.num_trials:
            self._num_openings = 0
            self._ends.clear()
            self._in_a_row.clear()
            self._change(BreakerState.CLOSED)

    def _open(self, retry_after_s: float) -> None:
        limits = self._limits
        # The exponent is bounded only so that it never overflows.
        pause_s = limits.pause_s * 2 ** min(self._num_openings, 32)
        pause_s = min(limits.max_pause_s, max(pause_s, retry_after_s))
        self._num_openings += 1
        self._opens_at_s = self.clock() + pause_s
        self._change(BreakerState.OPEN, pause_s)

    def _advance(self) -> None:
        if self.state is BreakerState.OPEN and self.clock() >= self._opens_at_s:
            self._num_passed = 0
            self._change(BreakerState.HALF_OPEN)

    def _change(self, state: BreakerState, pause_s: float = 0.0) -> None:
        self.state = state
        self._era += 1
        self._trials.clear()
        self._on_change(state, pause_s)

    def _has_place(self) -> bool:
        return len(self._trials) < self._limits.num_trials - self._num_passed


def make_breaker(settings: Settings, metrics: Metrics, is_shared: Callable[[], bool]) -> Breaker:
    """A breaker as it is set, whose changes are counted and logged.

    Args:
        settings: When it opens.
        metrics: Where its state is shown.
        is_shared: Says whether there is more than one caller who could ask.
    """
    # The embedded model has none: it is supervised, and while it is replaced, admission refuses
    # requests as long as it takes. A pause on top of that would only prolong it.
    is_embedded = settings.upstream_url is None
    limits = BreakerLimits(
        num_failures=0 if is_embedded else settings.upstream_breaker_failures,
        window_s=settings.upstream_breaker_window_s,
        pause_s=settings.upstream_breaker_pause_s,
        max_pause_s=settings.upstream_breaker_max_pause_s,
        num_trials=settings.upstream_breaker_trials,
    )

    def on_change(state: BreakerState, pause_s: float) -> None:
        metrics.upstream_breaker_state.set(state)
        fields: dict[str, object] = {"state": state.name.lower()}
        if state is BreakerState.OPEN:
            metrics.upstream_breaker_openings.inc()
            fields["pause_s"] = round(pause_s, 1)
        logger.warning("the upstream's breaker has changed", extra={"fields": fields})

    return Breaker(limits, on_change=on_change, is_shared=is_shared)
