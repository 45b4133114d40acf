"""Whether a picture could be answered in time, given what is ahead of it: pure policy.

Callers take turns, so that only as much of another caller's work is ahead of a picture as its own
caller has: whoever floods the service is refused, and the others still come in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LARGEST_FRACTION", "Ahead", "measure_ahead"]

# What waits ahead of a picture, by turns, may take this part of the time that it has left.
FAIR_FRACTION = 0.4
# That, the batch that runs, and the picture itself may take this part together. The rest is for
# what nobody could foresee: a slower batch, the answer's own way.
IN_TIME_FRACTION = 0.8
# A single picture may take this part of a request's whole time. While it runs, all others wait for
# it, and each of them still has time enough for itself.
LARGEST_FRACTION = 0.6


@dataclass(frozen=True, slots=True)
class Ahead:
    """How long the work ahead of a picture takes.

    Attributes:
        running_s: What is left of the batches that run, and the time without any worker.
        fair_s: What is served before it, as callers take turns.
    """

    running_s: float
    fair_s: float

    def is_too_late(self, own_s: float, left_s: float) -> bool:
        """Whether a picture had better not join.

        Args:
            own_s: What it takes itself.
            left_s: Time until its answer is worthless.
        """
        in_all_s = self.running_s + self.fair_s + own_s
        return self.fair_s > FAIR_FRACTION * left_s or in_all_s > IN_TIME_FRACTION * left_s


def measure_ahead(
    pixels: Mapping[str, float], newcomer: str, running_s: float, seconds_per_pixel: float
) -> Ahead:
    """Measures the work ahead of a picture.

    Args:
        pixels: Padded pixels that wait or are about to, by caller.
        newcomer: Whose picture it is.
        running_s: What is left of the batches that run.
        seconds_per_pixel: Of all workers together.
    """
    own = pixels.get(newcomer, 0)
    others = [number for caller, number in pixels.items() if caller != newcomer]
    # With nothing of its own in line it waits for the running batch alone.
    fair = own + sum(min(number, own) for number in others)
    return Ahead(running_s, seconds_per_pixel * fair)
