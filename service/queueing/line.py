"""The bounded line in front of the purifier: requests join it, workers take batches from it."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from models.buckets import Bucket, choose_bucket
from service.errors import Overloaded
from service.processes.pixels import PixelLease
from service.queueing.allowance import PixelAllowance
from service.queueing.backlog import Ahead, measure_ahead
from service.queueing.costs import BatchCosts, Throughput, retry_after_s
from service.queueing.policy import BatchLimits, Waiting, plan_batch
from service.queueing.recovery import Failure, regroup
from service.queueing.turns import Turns

__all__ = ["Batch", "Job", "Line"]

# What an image is taken to have before it is decoded, until there were some to learn from.
PIXELS_BEFORE_ANY = 512 * 512
# A batch takes this part of its images' time at most: all of them wait for its end, and so do those
# that come while it runs.
BATCH_FRACTION = 0.15
# How far one image moves what the next are taken to have.
SMOOTHING = 0.1


@dataclass(slots=True, eq=False)
class Job:
    """One image on its way through the purifier.

    Attributes:
        pixels: Its shared memory.
        height: Rows.
        width: Columns.
        deadline_s: Time at which its answer is worthless.
        queued_at_s: Time at which it joined the line.
        caller: Whose it is.
        started_at_s: Time at which its last batch began.
        num_failures: Batches with it that failed.
        group: Names those that it runs with after a failure, and nobody else.
        made_by: What purified it, as its engine describes itself.
        done: Completed with its suspicion when it is purified; fails with PurificationFailed.
    """

    pixels: PixelLease
    height: int
    width: int
    deadline_s: float
    queued_at_s: float
    caller: str = ""
    started_at_s: float | None = None
    num_failures: int = 0
    group: int | None = None
    made_by: Any = None
    done: asyncio.Future[float | None] = field(default_factory=asyncio.Future)

    @property
    def bucket(self) -> Bucket:
        """The smallest bucket that holds it."""
        return choose_bucket(self.height, self.width)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that run together, padded to one bucket."""

    bucket: Bucket
    jobs: tuple[Job, ...]

    @property
    def num_pixels(self) -> int:
        """Padded pixels of the whole batch."""
        return self.bucket.num_pixels * len(self.jobs)

    @property
    def padding_ratio(self) -> float:
        """Part of its pixels that is padding, in [0, 1)."""
        return 1 - sum(job.height * job.width for job in self.jobs) / self.num_pixels


class Line:
    """Jobs in order of arrival; all methods belong to the event loop's thread."""

    def __init__(
        self,
        limits: BatchLimits,
        costs: BatchCosts,
        max_length: int,
        count_arriving: Callable[[], int],
        throughput: Throughput,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the policy's inputs.

        Args:
            limits: Bounds on a batch.
            costs: Measured batch times.
            max_length: Most jobs in line.
            count_arriving: How many admitted requests have not joined yet.
            throughput: Told of every finished image.
            clock: Seconds; the clock of `deadline_s` and `queued_at_s`.
        """
        self.costs = costs
        self.num_workers = 1
        # Replaced by whoever replaces workers: seconds until one is there to take a batch.
        self.pause_s: Callable[[], float] = lambda: 0.0
        self._limits = limits
        self._allowance = PixelAllowance(limits.max_pixels)
        self._turns = Turns()
        self._usual_pixels: float | None = None
        self._groups = itertools.count()
        self._max_length = max_length
        self._count_arriving = count_arriving
        self._throughput = throughput
        self._clock = clock
        self._keys = itertools.count()
        self._jobs: dict[int, Job] = {}
        self._wakers: set[asyncio.Event] = set()
        self._running_pixels = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def measure_ahead(self, caller: str, arriving: Mapping[str, int]) -> Ahead:
        """Measures the work ahead of a request that would come now.

        Args:
            caller: Whose it is.
            arriving: Requests that were admitted and are not yet in line, by caller.
        """
        pixels = self._waiting_pixels()
        for other, number in arriving.items():
            pixels[other] += number * (self._usual_pixels or PIXELS_BEFORE_ANY)
        per_pixel_s = self.costs.seconds_per_pixel(self.num_workers)
        ahead = measure_ahead(pixels, caller, self._running_pixels, per_pixel_s)
        pause_s = self.pause_s()
        return Ahead(ahead.fair_s + pause_s, ahead.total_s + pause_s)

    def join(self, job: Job) -> None:
        """Puts a job in line.

        Raises:
            Overloaded: The line is full, or so long that the job would miss its deadline.
        """
        ahead = self.measure_ahead(job.caller, {})
        if len(self._jobs) >= self._max_length or ahead.bars_joining(
            job.deadline_s - self._clock()
        ):
            wait_s = retry_after_s(len(self._jobs), self._throughput.per_second())
            raise Overloaded(retry_after_s=wait_s)
        self._note_size(job.bucket.num_pixels)
        if all(other.caller != job.caller for other in self._jobs.values()):
            self._turns.arrive(job.caller)
        self._add(job)

    def leave(self, job: Job) -> None:
        """Takes a job out of line, if it is still there."""
        for key, other in self._jobs.items():
            if other is job:
                del self._jobs[key]
                return

    def wake(self) -> None:
        """Makes waiting workers plan again: someone joined, or gave up on the way."""
        for waker in self._wakers:
            waker.set()

    async def next_batch(self) -> Batch:
        """Waits for the next batch and takes its jobs out of line."""
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            while True:
                waker.clear()
                batch, wait_s = self._plan()
                if batch is not None:
                    self._running_pixels += batch.num_pixels
                    self._turns.spend((job.caller, batch.bucket.num_pixels) for job in batch.jobs)
                    return batch
                await _wait(waker, wait_s)
        finally:
            self._wakers.discard(waker)

    def finish(self, batch: Batch, seconds: float) -> None:
        """Ends a batch that took so long."""
        self._running_pixels -= batch.num_pixels
        self.costs.record(batch.bucket, len(batch.jobs), seconds)
        self._throughput.record(len(batch.jobs))
        self._allowance.note_success()

    def retry(self, batch: Batch, failure: Failure) -> list[Job]:
        """Ends a batch that failed; its jobs are in line again, but for those that are given up.

        Jobs that are done by now, as their clients left, are neither.

        Returns:
            The jobs that are given up.
        """
        self._running_pixels -= batch.num_pixels
        if failure is Failure.OUT_OF_MEMORY:
            self._allowance.lower(batch.num_pixels)
        jobs = [job for job in batch.jobs if not job.done.done()]
        if not jobs:
            return []
        for job in jobs:
            job.num_failures += 1
        groups = regroup(len(jobs), max(job.num_failures for job in jobs), failure)
        for indices in groups:
            group = next(self._groups)
            for index in indices:
                jobs[index].group = group
                self._add(jobs[index])
        return [] if groups else jobs

    def take_all(self) -> list[Job]:
        """Empties the line, for when there is no worker that could serve it."""
        jobs = list(self._jobs.values())
        self._jobs.clear()
        return jobs

    def _plan(self) -> tuple[Batch | None, float | None]:
        waiting = [
            Waiting(key, job.bucket, job.queued_at_s, job.deadline_s, job.caller, job.group)
            for key, job in self._jobs.items()
        ]
        plan = plan_batch(
            waiting,
            self._clock(),
            replace(self._limits, max_pixels=self._most_pixels()),
            self.costs.estimate_s,
            self._count_arriving(),
            self._turns.tag_of,
        )
        if plan is None:
            return None, None
        if plan.wait_s > 0:
            return None, plan.wait_s
        return Batch(plan.bucket, tuple(self._jobs.pop(key) for key in plan.keys)), None

    def _most_pixels(self) -> int:
        """Most padded pixels of a batch, by its device's memory and by its images' time."""
        given_s = min((job.deadline_s - job.queued_at_s for job in self._jobs.values()), default=0)
        in_time = self.costs.pixels_within(BATCH_FRACTION * given_s)
        return int(min(self._allowance.num_pixels, in_time))

    def _add(self, job: Job) -> None:
        self._jobs[next(self._keys)] = job
        self.wake()

    def _note_size(self, num_pixels: int) -> None:
        usual = num_pixels if self._usual_pixels is None else self._usual_pixels
        self._usual_pixels = usual + SMOOTHING * (num_pixels - usual)

    def _waiting_pixels(self) -> dict[str, float]:
        pixels: dict[str, float] = defaultdict(float)
        for job in self._jobs.values():
            pixels[job.caller] += job.bucket.num_pixels
        return pixels


async def _wait(waker: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await waker.wait()
    except TimeoutError:
        return
