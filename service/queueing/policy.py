"""When to run which batch: a pure function of who waits, the time and the measured costs.

The largest ready bucket goes first. A batch never waits for company longer than a fraction of its
own time, nor at all when nobody is on the way. Images of a smaller bucket fill up a larger one's
batch where that pads them little, so that uploads of different sizes share batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.buckets import Bucket

__all__ = ["BatchLimits", "Plan", "Waiting", "plan_batch"]

# Whoever has waited this part of its time is served before any larger bucket.
URGENT_FRACTION = 0.4


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may become, and what it may wait and waste for that.

    Attributes:
        max_images: Most images of a batch.
        max_pixels: Most padded pixels of a batch; a single image may exceed it.
        wait_fraction: Longest wait for company, as a part of the batch's own time.
        join_waste: Extra padding an image may take on to join a larger bucket: 0.3 is 30 %.
    """

    max_images: int
    max_pixels: int
    wait_fraction: float
    join_waste: float

    def capacity(self, bucket: Bucket) -> int:
        """Most images of a batch of this shape."""
        return max(1, min(self.max_images, self.max_pixels // bucket.num_pixels))

    def may_join(self, smaller: Bucket, larger: Bucket) -> bool:
        """Whether an image sized for one bucket may be padded to another."""
        fits = larger.holds(smaller)
        return fits and larger.num_pixels <= (1 + self.join_waste) * smaller.num_pixels


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the policy knows of a waiting image.

    Attributes:
        key: Names the image to the caller.
        bucket: The smallest bucket that holds it.
        queued_at_s: When it began to wait.
        deadline_s: When its answer is worthless.
        alone: It was in a batch that failed, and may not share another.
    """

    key: int
    bucket: Bucket
    queued_at_s: float
    deadline_s: float
    alone: bool = False

    def is_urgent(self, now_s: float) -> bool:
        """Whether it has waited so long that larger buckets no longer go first."""
        patience_s = URGENT_FRACTION * (self.deadline_s - self.queued_at_s)
        return now_s - self.queued_at_s > patience_s


@dataclass(frozen=True, slots=True)
class Plan:
    """The next batch, and how long to hold it back for company (0: run it now)."""

    bucket: Bucket
    keys: tuple[int, ...]
    wait_s: float = 0.0


def plan_batch(
    waiting: Sequence[Waiting],
    now_s: float,
    limits: BatchLimits,
    estimate_s: Callable[[Bucket, int], float],
    num_arriving: int,
) -> Plan | None:
    """Chooses the next batch.

    Args:
        waiting: Everyone in line, in order of arrival.
        now_s: The present time, on the clock of `queued_at_s`.
        limits: Bounds on a batch.
        estimate_s: Expected seconds of a batch of so many images of one bucket.
        num_arriving: Requests that were admitted and are not yet in line.

    Returns:
        The batch to run after `wait_s`, unless something changes before; None when nobody waits.
    """
    # 1. An image whose batch failed is run again by itself: it may be what made it fail.
    for image in waiting:
        if image.alone:
            return Plan(image.bucket, (image.key,))
    if not waiting:
        return None
    # 2. Whoever has waited too long goes first; otherwise the largest group, then the oldest.
    urgent = next((image for image in waiting if image.is_urgent(now_s)), None)
    if urgent is not None:
        return _plan_of(_gather(urgent.bucket, waiting, limits), urgent.bucket)
    bucket, group = _largest_group(waiting, limits)
    # 3. Hold it back only while someone may still come, and only for a part of its own time.
    full = len(group) == limits.capacity(bucket)
    if full or num_arriving == 0:
        return _plan_of(group, bucket)
    patience_s = limits.wait_fraction * estimate_s(bucket, len(group))
    waited_s = now_s - min(image.queued_at_s for image in group)
    return _plan_of(group, bucket, max(0.0, patience_s - waited_s))


def _largest_group(waiting: Sequence[Waiting], limits: BatchLimits) -> tuple[Bucket, list[Waiting]]:
    # Dictionaries keep order: among groups of one size the bucket of the earliest arrival wins.
    buckets = dict.fromkeys(image.bucket for image in waiting)
    groups = {bucket: _gather(bucket, waiting, limits) for bucket in buckets}
    return max(groups.items(), key=lambda item: len(item[1]))


def _gather(bucket: Bucket, waiting: Sequence[Waiting], limits: BatchLimits) -> list[Waiting]:
    """The batch for one bucket: its own images by age, then those that join with little waste."""
    own = [image for image in waiting if image.bucket == bucket]
    joining = [
        image
        for image in waiting
        if image.bucket != bucket and limits.may_join(image.bucket, bucket)
    ]
    return (own + joining)[: limits.capacity(bucket)]


def _plan_of(group: list[Waiting], bucket: Bucket, wait_s: float = 0.0) -> Plan:
    return Plan(bucket, tuple(image.key for image in group), wait_s)
