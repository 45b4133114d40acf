"""What batches have cost so far, and so what the next will cost and how large it may be.

A picture costs its padded pixels, as often as it passes the network (`times_steps`): that is its
work, and what a pixel costs is one pass of it. Pure: fed with measured times, read as estimates by
the batching policy and by admission. A batch that the device had no memory for lowers the pixels
that the next may have.
"""

from collections import deque
from collections.abc import Callable
from math import inf

from codefend.models.buckets import Bucket

__all__ = ["BatchCosts", "PixelAllowance", "Throughput"]

# How far one measurement moves an estimate.
SMOOTHING = 0.3
# A batch of fewer pixels than this moves the cost of a pixel by less: it costs mostly itself.
TELLING_PIXELS = 512 * 512
# A batch that takes this many times what such batches take is hung and not slow.
HANG_FACTOR = 10.0
# The memory may be lacking only for a while, as when a neighbour on the device needs it.
BATCHES_UNTIL_RAISED = 200


class BatchCosts:
    """Moving averages of batch times by shape, size and passes; else by the time per pixel."""

    def __init__(self) -> None:
        self._seconds_per_pixel = 0.0
        self._supposed_seconds_per_pixel = inf
        self._best_seconds_per_pixel = inf
        self._seconds: dict[tuple[Bucket, int, int], float] = {}

    def suppose(self, seconds_per_pixel: float) -> None:
        """Takes a first estimate, as from a warm-up; measurements outweigh it soon."""
        self._seconds_per_pixel = self._supposed_seconds_per_pixel = seconds_per_pixel

    def begin_anew(self) -> None:
        """Forgets all measurements: another purifier takes other times."""
        self._seconds_per_pixel = 0.0
        self._supposed_seconds_per_pixel = self._best_seconds_per_pixel = inf
        self._seconds.clear()

    def record(self, bucket: Bucket, num_images: int, seconds: float, times_steps: int = 1) -> None:
        """Learns from one finished batch."""
        key = (bucket, num_images, times_steps)
        self._seconds[key] = _blend(self._seconds.get(key), seconds)
        work = bucket.num_pixels * num_images * times_steps
        per_pixel = seconds / work
        weight = SMOOTHING * min(1.0, work / TELLING_PIXELS)
        self._seconds_per_pixel = _blend(self._seconds_per_pixel or None, per_pixel, weight)
        self._best_seconds_per_pixel = min(self._best_seconds_per_pixel, per_pixel)

    def estimate_s(self, bucket: Bucket, num_images: int, times_steps: int = 1) -> float:
        """Seconds that a batch will take; 0 while nothing is known."""
        fallback = self._seconds_per_pixel * bucket.num_pixels * num_images * times_steps
        return self._seconds.get((bucket, num_images, times_steps), fallback)

    def least_s(self, work: int) -> float:
        """Seconds that so much work takes at the best rate seen; 0 before the first batch.

        A machine that is busy for a while makes every estimate longer. What is said of an image
        for good must not depend on that, nor on a warm-up alone, which nothing would correct.
        """
        if self._best_seconds_per_pixel == inf:
            return 0.0
        best = min(self._best_seconds_per_pixel, self._supposed_seconds_per_pixel)
        return best * work

    def hung_after_s(
        self,
        bucket: Bucket,
        num_images: int,
        limits_s: tuple[float, float],
        times_steps: int = 1,
    ) -> float:
        """Seconds after which a batch counts as hung.

        Args:
            bucket: Its shape.
            num_images: Its size.
            limits_s: The least time, however fast such batches are, and the most.
            times_steps: How often it passes the network.
        """
        least_s, most_s = limits_s
        usual_s = self.estimate_s(bucket, num_images, times_steps)
        return min(most_s, max(least_s, HANG_FACTOR * usual_s)) if usual_s else most_s

    def pixels_within(self, seconds: float) -> float:
        """Padded pixels that pass in so long, once, at one worker; infinite if nothing is known."""
        return seconds / self._seconds_per_pixel if self._seconds_per_pixel else inf

    def seconds_per_pixel(self, num_workers: int) -> float:
        """Seconds of a padded pixel's pass, spread over the workers; 0 while nothing is known."""
        return self._seconds_per_pixel / max(1, num_workers)


def _blend(old: float | None, new: float, weight: float = SMOOTHING) -> float:
    return new if old is None else old + weight * (new - old)


class Throughput:
    """Images finished a second, over a sliding window."""

    def __init__(self, clock: Callable[[], float], window_s: float = 30.0) -> None:
        self._clock = clock
        self._window_s = window_s
        self._started_s = clock()
        self._finished: deque[tuple[float, float]] = deque()

    def record(self, num_images: float = 1) -> None:
        """Counts images that finished now; a tile is a part of one."""
        self._finished.append((self._clock(), num_images))

    def per_second(self) -> float:
        """The present rate; 0 when nothing finished within the window."""
        now_s = self._clock()
        while self._finished and self._finished[0][0] < now_s - self._window_s:
            self._finished.popleft()
        span_s = min(self._window_s, max(now_s - self._started_s, 1.0))
        return sum(num_images for _, num_images in self._finished) / span_s


class PixelAllowance:
    """Halved by every lack of memory, doubled again after many batches without one."""

    def __init__(self, most_pixels: int) -> None:
        """Takes the bound that is set, and begins there."""
        self.num_pixels = most_pixels
        self._most_pixels = most_pixels
        self._num_good = 0

    def lower(self, num_pixels: int) -> None:
        """Says that a batch of so many padded pixels found too little memory."""
        self.num_pixels = max(1, min(self.num_pixels, num_pixels // 2))
        self._num_good = 0

    def note_success(self) -> None:
        """Says that a batch found enough memory."""
        self._num_good += 1
        if self._num_good >= BATCHES_UNTIL_RAISED:
            self.num_pixels = min(self._most_pixels, 2 * self.num_pixels)
            self._num_good = 0
