"""Whether a newcomer could be answered in time, given who is ahead: pure, for gate and line.

Callers take turns, so that only as much of another caller's work is ahead of a newcomer as the
newcomer's own caller has: whoever floods the service is refused, and the others still come in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Ahead", "measure_ahead"]

# The largest batch goes first, and an image that waited for half of its time before any other (see
# policy.py): if the work ahead of it then takes less than the other half, it is answered in time.
FAIR_FRACTION = 0.4
# The difference is kept for callers who come while another floods the service.
TOTAL_FRACTION = 0.5
# An image that is decoded, and larger than was expected when it was let in, may still add a little.
DECODED_FRACTION = 0.6


@dataclass(frozen=True, slots=True)
class Ahead:
    """How long the work ahead of a newcomer takes.

    Attributes:
        fair_s: What is served before it, when callers take turns.
        total_s: All there is.
    """

    fair_s: float
    total_s: float

    def bars_arrival(self, left_s: float) -> bool:
        """Whether a request with so much time left had better not come in."""
        return self.fair_s > FAIR_FRACTION * left_s or self.total_s > TOTAL_FRACTION * left_s

    def bars_joining(self, left_s: float) -> bool:
        """Whether a decoded image with so much time left had better not join the line."""
        return self.total_s > DECODED_FRACTION * left_s


def measure_ahead(
    pixels: Mapping[str, float], newcomer: str, running_pixels: float, seconds_per_pixel: float
) -> Ahead:
    """Measures the work ahead of a newcomer.

    Args:
        pixels: Padded pixels that wait or are on the way, by caller.
        newcomer: The caller who comes.
        running_pixels: Padded pixels of the batches that run.
        seconds_per_pixel: Of all workers together.
    """
    own = pixels.get(newcomer, 0)
    others = [number for caller, number in pixels.items() if caller != newcomer]
    # With nothing of its own in line it waits for one turn of the others at most: the running one.
    fair = running_pixels + own + sum(min(number, own) for number in others)
    total = running_pixels + own + sum(others)
    return Ahead(seconds_per_pixel * fair, seconds_per_pixel * total)
