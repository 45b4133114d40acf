"""The workers of one model version: supervised, and drained when another version takes over.

A worker that dies, hangs, falls silent or ends itself is replaced while the requests wait. The jobs
of a failed batch are tried again as `recovery` says; an image at fault is answered with
PoisonousImage. None is lost.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codefend.service.devices import resolve_devices
from codefend.service.errors import PoisonousImage
from codefend.service.metrics import Metrics
from codefend.service.processes.child import (
    Child,
    ChildDied,
    ChildTimeout,
    LaunchFailed,
    ask_nothing,
)
from codefend.service.processes.pool import SupervisedChild
from codefend.service.processes.supervision import Backoff, Supervision
from codefend.service.purify.model_version import ModelVersion
from codefend.service.purify.worker import WorkerConfig, make_worker
from codefend.service.settings import Settings
from codefend.service.stages import BatchFailure, BatchSource, EngineFacts, JobBatch

__all__ = ["BatchOutcome", "RemoteWorker", "WorkerPool"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch: the seconds it took, or how it failed.

    Attributes:
        seconds: None if it failed.
        suspicions: Of each of its images; None where there is no detector.
        failure: None if it succeeded.
        memory_bytes: What the worker held of its device afterwards.
    """

    seconds: float | None = None
    suspicions: tuple[float | None, ...] = ()
    failure: BatchFailure | None = None
    memory_bytes: int = 0


class RemoteWorker(SupervisedChild):
    """A supervised child that runs batches; all methods belong to the event loop."""

    def __init__(
        self, name: str, config: WorkerConfig, start_timeout_s: float, silence_s: float
    ) -> None:
        """Takes what the process is to run; nothing starts yet.

        Args:
            name: For logs.
            config: What the process is told.
            start_timeout_s: Time for it to become warm.
            silence_s: Time without a heartbeat after which it is ended.
        """
        super().__init__(Child(name, make_worker, config, beats=True), start_timeout_s, silence_s)
        self._last_start_s: float | None = None
        self._starting_since_s = 0.0

    @property
    def warm_in_s(self) -> float | None:
        """Seconds until it should take batches, by what its last start took; None if none did."""
        if self.is_warm:
            return 0.0
        if self._last_start_s is None:
            return None
        return max(0.0, self._last_start_s - (time.monotonic() - self._starting_since_s))

    async def start(self) -> dict[str, Any]:
        """Starts the process and waits until it is warm.

        Returns:
            What it says about itself.

        Raises:
            ChildDied: It did not become warm.
        """
        self._starting_since_s = time.monotonic()
        try:
            description = await super().start()
        except LaunchFailed:
            raise  # files or memory were lacking: it says nothing of the worker
        except ChildDied:
            self._last_start_s = None
            raise
        self._last_start_s = time.monotonic() - self._starting_since_s
        return description

    async def run(self, batch: JobBatch, timeout_s: float) -> BatchOutcome:
        """Runs one batch, and ends the process if it takes too long."""
        meta = {
            "bucket": [batch.bucket.height, batch.bucket.width],
            "strength": batch.strength,
            "images": [
                {
                    "pixels": job.pixels.name,
                    "size": job.image_size or (job.height, job.width),
                    "tile": job.tile,
                }
                for job in batch.jobs
            ],
        }
        try:
            answer, _ = await self.call(meta, b"", timeout_s, ask_nothing)
        except ChildTimeout:
            logger.error("%s is hung", self.name)
            return BatchOutcome(failure=BatchFailure.HUNG)
        except ChildDied as error:
            logger.error("%s", error)
            return BatchOutcome(failure=BatchFailure.DIED)
        if "failure" in answer:
            return BatchOutcome(failure=BatchFailure(answer["failure"]))
        return BatchOutcome(
            float(answer["seconds"]),
            tuple(answer["suspicions"]),
            memory_bytes=int(answer["memory_bytes"]),
        )

    async def clear_away(self) -> None:
        """Ends what is left of a process that is of no more use, so that `start` may follow."""
        self._starting_since_s = time.monotonic()
        await super().clear_away()

    async def stop(self) -> None:
        """Ends the process for good: after its present batch, or at once if it is not warm yet."""
        self._last_start_s = None
        await super().stop()


class WorkerPool:
    """One supervised worker process for each device.

    They take batches from `start_accepting` to `stop_accepting`; `drain` ends them.
    """

    def __init__(
        self,
        version: ModelVersion,
        settings: Settings,
        queue: BatchSource,
        metrics: Metrics,
        on_change: Callable[["WorkerPool"], None],
    ) -> None:
        """Takes what the workers are started with; nothing starts yet.

        Args:
            version: Their weights.
            settings: Devices, engine and timeouts.
            queue: Where the batches come from.
            metrics: Where batches and failures are counted.
            on_change: Called whenever a worker has become warm, failed to, or ended.
        """
        self.version = version
        self.facts: EngineFacts | None = None
        self._seconds_per_pixel: float | None = None
        self.grey_distance = 0.0
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._on_change = on_change
        self._workers = [
            RemoteWorker(
                f"purify-{version.number}-{index}",
                WorkerConfig(settings.engine, version.options(settings, device), settings.tiling),
                settings.worker_start_timeout_s,
                settings.worker_silence_s,
            )
            for index, device in enumerate(resolve_devices(settings.devices, settings.backend))
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._accepting = asyncio.Event()
        self._draining = asyncio.Event()

    @property
    def num_warm(self) -> int:
        """How many workers have run a batch of their own and could take others."""
        return sum(worker.is_warm for worker in self._workers)

    @property
    def warm_in_s(self) -> float | None:
        """Seconds until a worker should take batches, 0 if one does; None if that is unknown.

        It is unknown before the first start, and from a start that failed until one succeeds.
        """
        known = [worker.warm_in_s for worker in self._workers]
        return min((seconds for seconds in known if seconds is not None), default=None)

    def pause_s(self) -> float | None:
        """Seconds until a worker is there to take a batch, 0 while one is; None if unknown."""
        return self.warm_in_s

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def start(self, supervision: Supervision) -> None:
        """Begins to load the workers, in the background.

        Args:
            supervision: Is told if their supervisors fail.
        """
        self._tasks = [
            supervision.start(f"supervisor of {worker.name}", self._supervise(worker))
            for worker in self._workers
        ]

    def start_accepting(self) -> None:
        """Lets the workers take batches, as soon as each is warm."""
        self._accepting.set()

    async def wait_until_warm(self) -> None:
        """Waits for all workers.

        Raises:
            ChildDied: One did not start; or whatever kept it from that.
        """
        while self.num_warm < len(self._workers):
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()

    def take_measurement(self) -> float | None:
        """Seconds a pixel as the last start measured them; once, since batches know better."""
        measured, self._seconds_per_pixel = self._seconds_per_pixel, None
        return measured

    def stop_accepting(self) -> None:
        """No worker takes another batch from here on; `drain` ends them."""
        self._draining.set()

    async def drain(self) -> None:
        """Ends the workers for good: after their present batches, those not yet warm at once."""
        self.stop_accepting()
        starting = [worker for worker in self._workers if not worker.is_warm]
        await asyncio.gather(*(worker.stop() for worker in starting))
        await asyncio.gather(*self._tasks)
        others = [worker for worker in self._workers if worker not in starting]
        await asyncio.gather(*(worker.stop() for worker in others))

    async def _supervise(self, worker: RemoteWorker) -> None:
        """Keeps one worker alive and fed, until the pool drains."""
        backoff = Backoff()
        while not self._draining.is_set():
            try:
                description = await worker.start()
            except Exception as error:  # whatever it was, the next try may succeed
                if self._draining.is_set():
                    return
                logger.error("%s did not start: %s", worker.name, error)
                self._failure = error
                self._note_change()
                await self._pause(backoff.pause_s(error))
                continue
            backoff.reset()
            self._learn(description)
            facts = self.facts
            fields = facts and {
                "device": facts.device,
                "backend": facts.backend,
                **facts.details,
            }
            logger.info("%s is warm", worker.name, extra={"fields": fields or {}})
            await self._until_accepting()
            await self._feed(worker)
            if self._draining.is_set():
                return
            self._metrics.worker_restarts.labels("purify").inc()
            logger.error("%s is replaced", worker.name)
            await worker.clear_away()
            self._note_change()

    def _learn(self, description: dict[str, Any]) -> None:
        self._seconds_per_pixel = description.pop("seconds_per_pixel")
        self.grey_distance = description.pop("grey_distance")
        self.facts = EngineFacts(**description | {"model_version": self.version.number})
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._on_change(self)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), seconds)

    async def _until_accepting(self) -> None:
        waits = [asyncio.create_task(e.wait()) for e in (self._accepting, self._draining)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _feed(self, worker: RemoteWorker) -> None:
        """Gives a worker one batch after another, until its process is gone or the pool drains."""
        ending = asyncio.create_task(worker.watch())
        draining = asyncio.create_task(self._draining.wait())
        try:
            batch = await self._take_batch(ending, draining)
            while batch is not None:
                if not await self._run(worker, batch):
                    return
                batch = await self._take_batch(ending, draining)
        finally:
            ending.cancel()
            draining.cancel()

    async def _take_batch(self, *ends: asyncio.Task[Any]) -> JobBatch | None:
        """The next batch; None if the worker ends, or drains, before there is one."""
        if self._draining.is_set():
            return None
        taking = asyncio.create_task(self._queue.next_batch())
        try:
            await asyncio.wait({taking, *ends}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not taking.done():
                taking.cancel()
        return taking.result() if taking.done() else None

    async def _run(self, worker: RemoteWorker, batch: JobBatch) -> bool:
        """Runs one batch; returns whether the worker can take another."""
        self._begin(batch)
        running = asyncio.create_task(worker.run(batch, self._timeout_s(batch)))
        try:
            await asyncio.shield(running)
        finally:
            # Also if the service stops: the process has the pixels in use until the batch is over.
            outcome = await running
            self._settle(worker, batch, outcome)
        return outcome.failure is None or not outcome.failure.ended_worker

    def _timeout_s(self, batch: JobBatch) -> float:
        limits_s = (self._settings.batch_timeout_floor_s, self._settings.batch_timeout_s)
        return self._queue.hung_after_s(batch, limits_s)

    def _begin(self, batch: JobBatch) -> None:
        now_s = time.monotonic()
        for job in batch.jobs:
            job.started_at_s = now_s
            # The batch outlives a client that leaves: its pixels must too.
            job.pixels.hold()
        self._metrics.batch_size.observe(len(batch.jobs))
        self._metrics.batch_shapes.observe(len({(job.height, job.width) for job in batch.jobs}))
        self._metrics.padding.observe(batch.padding_ratio)

    def _settle(self, worker: RemoteWorker, batch: JobBatch, outcome: BatchOutcome) -> None:
        for job in batch.jobs:
            job.pixels.release()
        if outcome.failure is not None:
            self._metrics.batch_failures.labels(outcome.failure.value).inc()
            for job in self._queue.retry(batch, outcome.failure):
                job.done.set_exception(PoisonousImage())
        elif outcome.seconds is not None:
            self._queue.finish(batch, outcome.seconds)
            self._measure(worker, outcome.seconds, outcome.memory_bytes)
            for job, suspicion in zip(batch.jobs, outcome.suspicions, strict=True):
                if not job.done.done():
                    job.made_by = self.facts
                    job.done.set_result(suspicion)

    def _measure(self, worker: RemoteWorker, seconds: float, memory_bytes: int) -> None:
        # The same label before and after a reload: the device is the same.
        labels = ("" if self.facts is None else self.facts.device, worker.name.rpartition("-")[2])
        self._metrics.device_busy.labels(*labels).inc(seconds)
        self._metrics.device_memory.labels(*labels).set(memory_bytes)
