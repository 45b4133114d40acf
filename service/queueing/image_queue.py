"""The bounded queue in front of the purifier: images are put in, workers take batches out.

A picture in tiles takes as many places as it has tiles, and is measured by all of them.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

from codefend.models.buckets import choose_bucket
from codefend.models.purifier.strengths import STRENGTHS, Strength
from codefend.service.context import RequestsInFlight
from codefend.service.errors import (
    WARM_UP_S,
    ImageTooLarge,
    ImageTooSlow,
    NotReady,
    Overloaded,
)
from codefend.service.fairness import (
    LARGEST_FRACTION,
    RETRY_AFTER_LIMITS_S,
    Backlog,
    Flow,
    PictureScheduler,
    measure_backlog,
)
from codefend.service.queueing.batching import BatchLimits, Waiting, plan_batch, regroup
from codefend.service.queueing.estimates import BatchCosts, PixelAllowance, Throughput
from codefend.service.stages import BatchFailure, Job, JobBatch, Reservation

__all__ = ["ImageQueue"]

# A batch takes this part of its images' time at most: all of them wait for its end, and so do those
# that come while it runs.
BATCH_FRACTION = 0.15
# A batch with tiles takes no longer than this, if one tile does not: who sends a small picture
# shall hardly feel that somebody's large one is under way.
TILED_BATCH_S = 0.03


Size = tuple[int, int]
"""Height and width."""


class ImageQueue:
    """Jobs in order of arrival; all methods belong to the event loop's thread."""

    def __init__(
        self,
        limits: BatchLimits,
        costs: BatchCosts,
        max_length: int,
        in_flight: RequestsInFlight,
        throughput: Throughput,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the policy's inputs.

        Args:
            limits: Bounds on a batch.
            costs: Measured batch times.
            max_length: Most jobs in the queue; a picture in tiles is one for each of them.
            in_flight: The ledger that says how many images are on their way.
            throughput: Told of every finished image.
            clock: Seconds; the clock of `deadline_s` and `queued_at_s`.
        """
        self.costs = costs
        self.num_workers = 1
        # Replaced by whoever replaces workers: seconds until one is there, None if that is unknown.
        self.pause_s: Callable[[], float | None] = lambda: 0.0
        self._limits = limits
        self._allowance = PixelAllowance(limits.max_pixels)
        self._scheduler = PictureScheduler()
        self._reservations: set[Reservation] = set()
        self._groups = itertools.count()
        self._pictures = itertools.count()
        self._max_length = max_length
        self._in_flight = in_flight
        self._throughput = throughput
        self._clock = clock
        self._keys = itertools.count()
        self._jobs: dict[int, Job] = {}
        self._running: dict[JobBatch, float] = {}
        self._wakers: set[asyncio.Event] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def num_running(self) -> int:
        """Batches that run."""
        return len(self._running)

    def measure_backlog(self, caller: str) -> Backlog:
        """Measures the work ahead of a picture that would come now."""
        return self._measure_backlog((caller, None))

    def reserve(
        self,
        caller: str,
        sizes: Sequence[Size],
        deadline_s: float,
        whole_s: float,
        strength: Strength = Strength.STANDARD,
    ) -> Reservation:
        """Takes the places of a picture that is about to be decoded; `put` or `withdraw` follows.

        Args:
            caller: Whose it is.
            sizes: Of each of its tiles, all alike; or of the picture alone.
            deadline_s: Time at which its answer is worthless.
            whole_s: What requests have from their arrival on.
            strength: How strongly it is to be purified.

        Raises:
            ImageTooLarge: It has more tiles than may wait.
            ImageTooSlow: It takes so long by itself that nobody could wait for it.
            Overloaded: The queue is full, or so long that it would be answered too late.
            NotReady: The same, while the workers are being replaced; or none is expected.
        """
        pause_s = self.pause_s()
        if pause_s is None:
            raise NotReady(retry_after_s=ceil(WARM_UP_S))
        place = self._make_reservation(caller, sizes, STRENGTHS[strength].times_steps)
        if place.num_tiles > self._max_length:
            raise ImageTooLarge(_too_many_tiles(place.num_tiles, self._max_length), "image")
        least_s = self.costs.least_s(place.work) / self._num_workers_for(place)
        if least_s > LARGEST_FRACTION * whole_s:
            raise ImageTooSlow(_too_slow(least_s, whole_s), "image")
        self._check(place, deadline_s - self._clock(), pause_s)
        self._reservations.add(place)
        return place

    def withdraw(self, reservation: Reservation) -> None:
        """Gives a place back that is not needed any more; a second time does nothing."""
        self._reservations.discard(reservation)

    def put(self, *jobs: Job) -> None:
        """Puts the job of a picture into the queue, or those of all its tiles.

        Raises:
            Overloaded: The queue is full, or so long that they would miss their deadline.
        """
        first = jobs[0]
        place = first.reservation
        if place in self._reservations:
            self._reservations.remove(place)
        else:
            sizes = [(job.height, job.width) for job in jobs]
            place = self._make_reservation(first.caller, sizes, first.times_steps)
            self._check(place, first.deadline_s - self._clock(), self.pause_s() or 0.0)
        self._scheduler.arrive(place.flow, {other.flow for other in self._jobs.values()})
        for job in jobs:
            job.reservation, job.flow = place, place.flow
            job.bucket = choose_bucket(job.height, job.width)
            self._add(job)
        if first.slot is not None:
            first.slot.mark_enqueued()

    def remove(self, *jobs: Job) -> None:
        """Takes jobs out of the queue, as far as they are still there."""
        gone = set(jobs)
        self._jobs = {key: job for key, job in self._jobs.items() if job not in gone}

    async def next_batch(self) -> JobBatch:
        """Waits for the next batch and takes its jobs out of the queue."""
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            while True:
                waker.clear()
                batch, wait_s = self._plan()
                if batch is not None:
                    self._running[batch] = self._clock()
                    work = batch.bucket.num_pixels * batch.times_steps
                    self._scheduler.spend([(job.flow, work) for job in batch.jobs])
                    return batch
                # Who is on the way matters to a batch that is held back, and to nobody else.
                if self._jobs:
                    self._in_flight.watchers.add(waker)
                await _wait(waker, wait_s)
                self._in_flight.watchers.discard(waker)
        finally:
            self._wakers.discard(waker)
            self._in_flight.watchers.discard(waker)

    def finish(self, batch: JobBatch, seconds: float) -> None:
        """Ends a batch that took so long."""
        self._running.pop(batch, None)
        self.costs.record(batch.bucket, len(batch.jobs), seconds, batch.times_steps)
        self._throughput.record(
            sum(1 / job.reservation.num_tiles for job in batch.jobs if job.reservation)
        )
        self._allowance.note_success()

    def retry(self, batch: JobBatch, failure: BatchFailure) -> list[Job]:
        """Ends a batch that failed; its jobs are queued again, but for those that are given up.

        Jobs that are done by now, as their clients left, are neither.

        Returns:
            The jobs that are given up.
        """
        self._running.pop(batch, None)
        if failure is BatchFailure.OUT_OF_MEMORY:
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

    def hung_after_s(self, batch: JobBatch, limits_s: tuple[float, float]) -> float:
        """Seconds after which a batch counts as hung, between the least and the most."""
        size = len(batch.jobs)
        return self.costs.hung_after_s(batch.bucket, size, limits_s, batch.times_steps)

    def suppose_cost(self, seconds_per_pixel: float) -> None:
        """Takes a first estimate of what a pixel costs, as from a warm-up."""
        self.costs.suppose(seconds_per_pixel)

    def forget_costs(self) -> None:
        """Forgets what batches have cost: another purifier takes other times."""
        self.costs.begin_anew()

    def take_all(self) -> list[Job]:
        """Empties the queue, for when there is no worker that could serve it."""
        jobs = list(self._jobs.values())
        self._jobs.clear()
        return jobs

    def _plan(self) -> tuple[JobBatch | None, float | None]:
        if not self._jobs:
            return None, None
        waiting = [
            Waiting(
                key,
                job.bucket,
                job.queued_at_s,
                job.deadline_s,
                *job.flow,
                job.group,
                job.strength,
            )
            for key, job in self._jobs.items()
        ]
        plan = plan_batch(
            waiting,
            self._clock(),
            replace(
                self._limits,
                max_pixels=self._allowance.num_pixels,
                max_pixels_in_time=self._most_pixels_in_time(),
                max_tiled_pixels=self.costs.pixels_within(TILED_BATCH_S),
            ),
            self.costs.estimate_s,
            self._in_flight.num_arriving,
            self._scheduler.virtual_time,
        )
        if plan is None or plan.wait_s > 0:
            return None, None if plan is None else plan.wait_s
        jobs = tuple(self._jobs.pop(key) for key in plan.keys)
        num_pixels = plan.bucket.num_pixels * len(jobs)
        padding_ratio = 1 - sum(job.height * job.width for job in jobs) / num_pixels
        return JobBatch(plan.bucket, jobs, num_pixels, padding_ratio), None

    def _most_pixels_in_time(self) -> float:
        """Most padded pixels of a batch, by its images' time."""
        given_s = min((job.deadline_s - job.queued_at_s for job in self._jobs.values()), default=0)
        return self.costs.pixels_within(BATCH_FRACTION * given_s)

    def _add(self, job: Job) -> None:
        self._jobs[next(self._keys)] = job
        for waker in self._wakers:
            waker.set()

    def _make_reservation(
        self, caller: str, sizes: Sequence[Size], times_steps: int
    ) -> Reservation:
        picture = next(self._pictures) if len(sizes) > 1 else None
        return Reservation((caller, picture), choose_bucket(*sizes[0]), len(sizes), times_steps)

    def _num_workers_for(self, place: Reservation) -> int:
        """How many workers can purify one picture at once: tiles spread over all of them."""
        return max(1, min(self.num_workers, place.num_tiles))

    def _check(self, place: Reservation, left_s: float, pause_s: float) -> None:
        depth = len(self._jobs) + sum(other.num_tiles for other in self._reservations)
        if not depth and not self._running and not pause_s:
            return  # nobody is ahead: an estimate that is too long would never be corrected
        # While the workers are being replaced it is the service that lacks something.
        refuse = NotReady if pause_s else Overloaded
        ahead = self._measure_backlog(place.flow, place.work - place.work_of_tile)
        per_pixel_s = self.costs.seconds_per_pixel(self._num_workers_for(place))
        is_late = ahead.exceeds_deadline(per_pixel_s * place.work, left_s)
        if is_late or depth + place.num_tiles > self._max_length:
            lowest, highest = RETRY_AFTER_LIMITS_S
            wait_s = ceil(ahead.running_s + ahead.fair_s)
            raise refuse(retry_after_s=min(highest, max(lowest, wait_s)))

    def _measure_backlog(self, flow: Flow, own_work: float = 0) -> Backlog:
        per_pixel_s = self.costs.seconds_per_pixel(self.num_workers)
        running_s = self._left_of_running_s() + (self.pause_s() or 0.0)
        return measure_backlog(self._waiting_work(), flow, running_s, per_pixel_s, own_work)

    def _left_of_running_s(self) -> float:
        """What is left of the batches that run, by what such batches take, for each worker."""
        now_s = self._clock()
        left_s = sum(
            max(0.0, began_at_s + self._estimate_s(batch) - now_s)
            for batch, began_at_s in self._running.items()
        )
        return left_s / max(1, self.num_workers)

    def _estimate_s(self, batch: JobBatch) -> float:
        return self.costs.estimate_s(batch.bucket, len(batch.jobs), batch.times_steps)

    def _waiting_work(self) -> dict[Flow, float]:
        work: dict[Flow, float] = defaultdict(float)
        for job in self._jobs.values():
            work[job.flow] += job.bucket.num_pixels * job.times_steps
        for place in self._reservations:
            work[place.flow] += place.work
        return work


def _too_slow(least_s: float, whole_s: float) -> str:
    most_s = LARGEST_FRACTION * whole_s
    return (
        f"The image takes about {ceil(least_s)} s to purify here, and one image may take "
        f"{most_s:.3g} s. Send a smaller one; the operator can raise CODEFEND_DEADLINE_S, of which "
        f"that is {LARGEST_FRACTION:.0%}, or have large images scaled down: "
        "CODEFEND_PURIFY_SIDE_PX."
    )


def _too_many_tiles(num_tiles: int, most: int) -> str:
    return (
        f"The image is purified in {num_tiles} tiles, and at most {most} may wait. Send a smaller "
        "one; the operator can raise CODEFEND_MAX_QUEUE, or have large images scaled down: "
        "CODEFEND_PURIFY_SIDE_PX."
    )


async def _wait(waker: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await waker.wait()
    except TimeoutError:
        return
