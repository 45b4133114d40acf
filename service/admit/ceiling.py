"""How many requests may be inside, learned from those that were not answered in time.

What the purifier can take is known in advance; what the model behind the service can take is not.
If it is asked for too much at once every answer comes late, and none is of use to anybody.
"""

import time
from collections import deque
from collections.abc import Callable

__all__ = ["Ceiling"]

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
        # Those that were let in before it fell may still be late, and tell nothing new.
        has_settled = now_s - self._fell_at_s >= self._deadline_s
        is_too_much = num_late >= max(FEWEST_LATE, LATE_FOR_EACH_IN_TIME * num_in_time)
        if has_settled and is_too_much:
            self._height = min(self._height, max(1.0, FRACTION_IN_TIME * num_in_time))
            self._fell_at_s = now_s

    def _note(self, *, was_late: bool) -> None:
        now_s = self._clock()
        self._ends.append((now_s, was_late))
        while self._ends[0][0] < now_s - self._deadline_s:
            self._ends.popleft()
