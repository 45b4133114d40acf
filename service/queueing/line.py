"""The bounded line in front of the purifier: requests join it, workers take batches from it."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from models.buckets import Bucket, choose_bucket
from service.errors import Overloaded
from service.processes.pixels import PixelLease
from service.queueing.costs import BatchCosts, Throughput, retry_after_s
from service.queueing.policy import BatchLimits, Waiting, plan_batch

__all__ = ["Batch", "Job", "Line"]

# The largest bucket goes first, not the earliest arrival: an image may wait about twice as long as
# the work ahead of it takes. Only what fits with that margin is let in.
BACKLOG_FRACTION = 0.5


@dataclass(slots=True, eq=False)
class Job:
    """One image on its way through the purifier.

    Attributes:
        pixels: Its shared memory.
        height: Rows.
        width: Columns.
        deadline_s: Time at which its answer is worthless.
        queued_at_s: Time at which it joined the line.
        started_at_s: Time at which its last batch began.
        alone: Its first batch failed; it runs once more, by itself.
        done: Completed when it is purified; fails with PurificationFailed.
    """

    pixels: PixelLease
    height: int
    width: int
    deadline_s: float
    queued_at_s: float
    started_at_s: float | None = None
    alone: bool = False
    done: asyncio.Future[None] = field(default_factory=asyncio.Future)

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
        self._limits = limits
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

    def join(self, job: Job) -> None:
        """Puts a job in line.

        Raises:
            Overloaded: The line is full, or so long that the job would miss its deadline.
        """
        ahead_s = self.costs.backlog_s(self._pixels_ahead(), self.num_workers)
        left_s = BACKLOG_FRACTION * (job.deadline_s - self._clock())
        if len(self._jobs) >= self._max_length or ahead_s > left_s:
            wait_s = retry_after_s(len(self._jobs), self._throughput.per_second())
            raise Overloaded(retry_after_s=wait_s)
        self._add(job)

    def rejoin(self, job: Job) -> None:
        """Puts a job whose batch failed in line again, to run by itself; it is never refused."""
        job.alone = True
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
                    return batch
                await _wait(waker, wait_s)
        finally:
            self._wakers.discard(waker)

    def finish(self, batch: Batch, seconds: float | None) -> None:
        """Ends a batch; `seconds` is what it took, None if it failed."""
        self._running_pixels -= batch.num_pixels
        if seconds is not None:
            self.costs.record(batch.bucket, len(batch.jobs), seconds)
            self._throughput.record(len(batch.jobs))

    def take_all(self) -> list[Job]:
        """Empties the line, for when there is no worker that could serve it."""
        jobs = list(self._jobs.values())
        self._jobs.clear()
        return jobs

    def _plan(self) -> tuple[Batch | None, float | None]:
        waiting = [
            Waiting(key, job.bucket, job.queued_at_s, job.deadline_s, job.alone)
            for key, job in self._jobs.items()
        ]
        plan = plan_batch(
            waiting,
            self._clock(),
            self._limits,
            self.costs.estimate_s,
            self._count_arriving(),
        )
        if plan is None:
            return None, None
        if plan.wait_s > 0:
            return None, plan.wait_s
        return Batch(plan.bucket, tuple(self._jobs.pop(key) for key in plan.keys)), None

    def _add(self, job: Job) -> None:
        self._jobs[next(self._keys)] = job
        self.wake()

    def _pixels_ahead(self) -> int:
        waiting = sum(job.bucket.num_pixels for job in self._jobs.values())
        return waiting + self._running_pixels


async def _wait(waker: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await waker.wait()
    except TimeoutError:
        return
