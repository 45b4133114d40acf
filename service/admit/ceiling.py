"""How many requests may be inside, learned from those that were not answered in time.

What the purifier can take is known in advance; what the model behind the service can take is not.
If it is asked for too much at once every answer comes late, and none is of use to anybody.

Lateness is a caller's own: who asks for slow answers lowers nobody's ceiling but its own. Only
callers that are late although hardly anything of theirs is inside lower the one that holds for all
together, and a caller that is in time keeps a few places under that too.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial

__all__ = ["Ceiling", "Ceilings"]

# So many late answers, and for each one in time, are no longer the fault of single requests. Where
# they are nevertheless, as most answers are fast, the ceiling stays above what is needed.
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


class Ceiling:
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
        self._height = float(most)
        self._fell_at_s = clock() - deadline_s
        self._ends: deque[tuple[float, bool]] = deque()

    @property
    def num_requests(self) -> int:
        """Most requests inside at present."""
        return int(self._height)

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
        if seconds <= FRACTION_FAST * self._deadline_s and num_inside >= self._height / 2:
            self._height = min(self._most, self._height + RISE)

    def note_late(self) -> None:
        """Says that a request's deadline passed before its answer came."""
        self._note(was_late=True)
        now_s = self._clock()
        num_late = sum(was_late for _, was_late in self._ends)
        num_in_time = len(self._ends) - num_late
        is_too_much = num_late >= max(FEWEST_LATE, LATE_FOR_EACH_IN_TIME * num_in_time)
        if self.has_settled and is_too_much:
            self._height = min(self._height, max(1.0, FRACTION_IN_TIME * num_in_time))
            self._fell_at_s = now_s

    def _note(self, *, was_late: bool) -> None:
        self._ends.append((self._clock(), was_late))
        self._forget()

    def _forget(self) -> None:
        since_s = self._clock() - self._deadline_s
        while self._ends and self._ends[0][0] < since_s:
            self._ends.popleft()


class Ceilings:
    """One ceiling a caller, and one over all of them."""

    def __init__(
        self, most: int, deadline_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins at their highest; the arguments are those of `Ceiling`."""
        self._make: Callable[[], Ceiling] = partial(Ceiling, most, deadline_s, clock)
        self._most = most
        self._of_all = self._make()
        self._of: dict[str, Ceiling] = {}

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
        ceiling = self._find(caller)
        has_no_more_to_give = ceiling.num_requests == 1 and ceiling.has_settled
        ceiling.note_late()
        if has_no_more_to_give:
            self._of_all.note_late()

    def _find(self, caller: str) -> Ceiling:
        return self._of.setdefault(caller, self._make())
