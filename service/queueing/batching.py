"""When to run which batch: a pure function of who waits, the time and the measured costs.

Callers take turns: the next batch is of a shape that the caller whose turn it is has images of, the
one with most company, and the others fill it up, in turns too. So one caller's flood costs another
little more than the batch that runs. A batch never waits for company longer than a fraction of its
own time, nor at all when nobody is on the way. Images of a smaller bucket fill up a larger one's
batch where that pads them little, so that uploads of different sizes share batches. Tiles of large
pictures fill up batches, too, but for a short time only, for everyone waits while they run. A batch
is of one strength: an engine adds the same noise to all of it.

What becomes of a batch that failed is decided here, too (`regroup`). Batches that raise are halved
until the image at fault is alone: a try costs no more than its own time, and what was too much for
the device's memory soon fits. A worker that ends costs its replacement, which takes longer than any
batch, so tries are spared instead: the same batch runs once more, for the worker may have been
ended from outside, and if that ends the next one too, its images run one by one, where only those
at fault can do any further harm.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Self

from codefend.models.buckets import Bucket
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.service.fairness import Flow
from codefend.service.stages import BatchFailure

__all__ = ["BatchLimits", "BatchPlan", "Waiting", "plan_batch", "regroup"]

# Whoever has waited this part of its time is served before any larger bucket of its caller's.
URGENT_FRACTION = 0.5
# An image that fails this often, by itself in the end, is at fault.
MOST_FAILURES = 2


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may become, and what it may wait and waste for that.

    Attributes:
        max_images: Most images of a batch.
        max_pixels: Most padded pixels of a batch, by memory; a single image may exceed it.
        wait_fraction: Longest wait for company, as a part of the batch's own time.
        join_waste: Extra padding an image may take on to join a larger bucket: 0.3 is 30 %.
        max_pixels_in_time: The same by the time that they take.
        max_tiled_pixels: The same of a batch with tiles, by the time that they take.
    """

    max_images: int
    max_pixels: int
    wait_fraction: float
    join_waste: float
    max_pixels_in_time: float = inf
    max_tiled_pixels: float = inf

    def for_steps(self, times_steps: int) -> Self:
        """These for images that pass the network so many times, and take as much longer."""
        return replace(
            self,
            max_pixels_in_time=self.max_pixels_in_time / times_steps,
            max_tiled_pixels=self.max_tiled_pixels / times_steps,
        )

    def capacity(self, bucket: Bucket) -> int:
        """Most images of a batch of this shape."""
        most_pixels = min(self.max_pixels, self.max_pixels_in_time)
        return max(1, min(self.max_images, int(most_pixels // bucket.num_pixels)))

    def fill(self, bucket: Bucket, images: Sequence["Waiting"]) -> list["Waiting"]:
        """The first of these that a batch of this shape takes."""
        most = self.capacity(bucket)
        tiled = max(1, min(most, self.max_tiled_pixels // bucket.num_pixels))
        batch: list[Waiting] = []
        for image in images:
            if len(batch) < (most if image.picture is None else tiled):
                batch.append(image)
        return batch

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
        caller: Whose it is.
        picture: The number of the picture whose tile it is; None if it is whole.
        group: It was in a batch that failed, and runs with those of this group and nobody else.
        strength: How strongly it is purified.
    """

    key: int
    bucket: Bucket
    queued_at_s: float
    deadline_s: float
    caller: str = ""
    picture: int | None = None
    group: int | None = None
    strength: Strength = Strength.STANDARD

    @property
    def flow(self) -> Flow:
        """With what it takes turns."""
        return self.caller, self.picture

    def is_urgent(self, now_s: float) -> bool:
        """Whether it has waited so long that larger buckets no longer go first."""
        patience_s = URGENT_FRACTION * (self.deadline_s - self.queued_at_s)
        return now_s - self.queued_at_s > patience_s


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The next batch, and how long to hold it back for company (0: run it now)."""

    bucket: Bucket
    keys: tuple[int, ...]
    wait_s: float = 0.0


def plan_batch(
    waiting: Sequence[Waiting],
    now_s: float,
    limits: BatchLimits,
    estimate_s: Callable[[Bucket, int, int], float],
    num_arriving: int,
    virtual_time_of: Callable[[Flow], tuple[float, ...]] = lambda _: (),
) -> BatchPlan | None:
    """Chooses the next batch.

    Args:
        waiting: All images in the queue, in order of arrival.
        now_s: The present time, on the clock of `queued_at_s`.
        limits: Bounds on a batch.
        estimate_s: Expected seconds of a batch of so many images of one bucket, which pass the
            network so many times.
        num_arriving: Requests that were admitted and whose image is not in the queue yet.
        virtual_time_of: Orders flows; the lowest leads. Among equals it is the earliest arrival.

    Returns:
        The batch to run after `wait_s`, unless something changes before; None when nobody waits.
    """
    if not waiting:
        return None
    # 1. Images of a failed batch are tried again first, and by themselves: one may be at fault.
    group = next((image.group for image in waiting if image.group is not None), None)
    if group is not None:
        together = [image for image in waiting if image.group == group]
        return _plan_of(together, _holding_all(together))
    by_flow = _in_turns(waiting, virtual_time_of)
    # 2. Of the flow whose turn it is, an image that has waited too long goes first; company is what
    # is to be purified as strongly.
    urgent = next((image for image in by_flow[0] if image.is_urgent(now_s)), None)
    leader = urgent or by_flow[0][0]
    by_flow = _as_strong_as(leader, by_flow)
    times_steps = STRENGTHS[leader.strength].times_steps
    limits = limits.for_steps(times_steps)
    if urgent is not None:
        return _plan_of(_deal(urgent.bucket, by_flow, limits), urgent.bucket)
    # 3. Otherwise the largest group with an image of that flow, then the oldest.
    bucket, images = _largest_group(by_flow, limits)
    # 4. Hold it back only while someone may still come, and only for a part of its own time.
    full = len(images) == limits.capacity(bucket) or by_flow[0][0].picture is not None
    if full or num_arriving == 0:
        return _plan_of(images, bucket)
    patience_s = limits.wait_fraction * estimate_s(bucket, len(images), times_steps)
    waited_s = now_s - min(image.queued_at_s for image in images)
    return _plan_of(images, bucket, max(0.0, patience_s - waited_s))


def _in_turns(
    waiting: Sequence[Waiting], virtual_time_of: Callable[[Flow], tuple[float, ...]]
) -> list[list[Waiting]]:
    """The images of each flow, by age; first those of the flow whose turn it is."""
    by_flow: dict[Flow, list[Waiting]] = {}
    for image in waiting:
        by_flow.setdefault(image.flow, []).append(image)
    flows = sorted(by_flow, key=virtual_time_of) if len(by_flow) > 1 else by_flow
    return [by_flow[flow] for flow in flows]


def _as_strong_as(leader: Waiting, by_flow: Sequence[list[Waiting]]) -> list[list[Waiting]]:
    alike = ([each for each in flow if each.strength is leader.strength] for flow in by_flow)
    return [images for images in alike if images]


def _largest_group(
    by_flow: Sequence[Sequence[Waiting]], limits: BatchLimits
) -> tuple[Bucket, list[Waiting]]:
    # Dictionaries keep order: among groups of one size the bucket of the earliest arrival wins.
    buckets = dict.fromkeys(image.bucket for image in by_flow[0])
    groups = {bucket: _deal(bucket, by_flow, limits) for bucket in buckets}
    return max(groups.items(), key=lambda item: len(item[1]))


def _deal(
    bucket: Bucket, by_flow: Sequence[Sequence[Waiting]], limits: BatchLimits
) -> list[Waiting]:
    """The batch for one bucket, to which flows add one image after another in turns."""
    hands = [_gather(bucket, images, limits) for images in by_flow]
    rounds = itertools.zip_longest(*hands)
    dealt = [image for images in rounds for image in images if image is not None]
    return limits.fill(bucket, dealt)


def _gather(bucket: Bucket, waiting: Sequence[Waiting], limits: BatchLimits) -> list[Waiting]:
    """The batch for one bucket: its own images by age, then those that join with little waste."""
    own = [image for image in waiting if image.bucket == bucket]
    joining = [
        image
        for image in waiting
        if image.bucket != bucket and limits.may_join(image.bucket, bucket)
    ]
    return (own + joining)[: limits.capacity(bucket)]


def _holding_all(images: Sequence[Waiting]) -> Bucket:
    buckets = [image.bucket for image in images]
    return Bucket(max(bucket.height for bucket in buckets), max(bucket.width for bucket in buckets))


def _plan_of(group: list[Waiting], bucket: Bucket, wait_s: float = 0.0) -> BatchPlan:
    return BatchPlan(bucket, tuple(image.key for image in group), wait_s)


def regroup(num_images: int, num_failures: int, failure: BatchFailure) -> list[range]:
    """Says which images of a failed batch are tried again together.

    Args:
        num_images: Images of the batch, at least 1.
        num_failures: Batches of these images that failed, this one included.
        failure: How it failed.

    Returns:
        Indices into the batch, a range for each new batch; none if its image is given up.
    """
    if num_images == 1:
        return [] if num_failures >= MOST_FAILURES else [range(1)]
    if not failure.ended_worker:
        middle = (num_images + 1) // 2
        return [range(middle), range(middle, num_images)]
    if num_failures < MOST_FAILURES:
        return [range(num_images)]
    return [range(index, index + 1) for index in range(num_images)]
