"""The service's side of the purify stage: supervised workers that take batches from the line.

A worker that dies, hangs, falls silent or ends itself is replaced while the requests wait. The jobs
of a failed batch are tried again as `recovery` says; an image at fault is answered with
PoisonousImage. None is lost.
"""

import asyncio
import logging
import time
from typing import Any

from service.errors import PoisonousImage, PurificationFailed
from service.metrics import Metrics
from service.processes.child import ChildDied
from service.purify.devices import resolve_devices
from service.purify.engine import EngineFacts, EngineOptions
from service.purify.remote import Outcome, RemoteWorker
from service.purify.worker import WorkerConfig
from service.queueing.line import Batch, Line
from service.settings import Settings

__all__ = ["PurifyStage"]

logger = logging.getLogger(__name__)

# Between starts that fail: the pause doubles from one to the next.
RESTART_PAUSE_LIMITS_S = (2.0, 60.0)


class PurifyStage:
    """One supervised worker process per device."""

    def __init__(self, settings: Settings, line: Line, metrics: Metrics) -> None:
        self._settings = settings
        self._line = line
        self._metrics = metrics
        self._workers = [
            RemoteWorker(
                f"purify-{index}",
                self._config(device),
                settings.worker_start_timeout_s,
                settings.worker_silence_s,
            )
            for index, device in enumerate(resolve_devices(settings.devices))
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self.facts: EngineFacts | None = None
        line.num_workers = len(self._workers)
        line.pause_s = lambda: self.warm_in_s or 0.0

    @property
    def is_warm(self) -> bool:
        """Whether at least one worker has run a batch of its own and waits for more."""
        return any(worker.is_warm for worker in self._workers)

    @property
    def warm_in_s(self) -> float | None:
        """Seconds until a worker should take batches, 0 if one does; None if that is unknown.

        It is unknown before the first start, and from a start that failed until one succeeds.
        """
        known = [worker.warm_in_s for worker in self._workers]
        return min((seconds for seconds in known if seconds is not None), default=None)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def start(self) -> None:
        """Begins to load the workers, in the background."""
        self._tasks = [asyncio.create_task(self._supervise(worker)) for worker in self._workers]

    async def stop(self) -> None:
        """Ends the workers after their present batches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        self._give_up_waiting()

    def _config(self, device: str) -> WorkerConfig:
        settings = self._settings
        options = EngineOptions.of(settings, device)
        return WorkerConfig(settings.engine, options)

    async def _supervise(self, worker: RemoteWorker) -> None:
        """Keeps one worker alive and fed, for ever."""
        pause_s, longest_pause_s = RESTART_PAUSE_LIMITS_S
        while True:
            try:
                description = await worker.start()
            except ChildDied as error:
                logger.error("%s did not start: %s", worker.name, error)
                self._give_up_waiting()
                await asyncio.sleep(pause_s)
                pause_s = min(longest_pause_s, 2 * pause_s)
                continue
            pause_s, _ = RESTART_PAUSE_LIMITS_S
            self._learn(description)
            logger.info("%s is warm", worker.name)
            await self._feed(worker)
            self._metrics.worker_restarts.labels("purify").inc()
            logger.error("%s is replaced", worker.name)
            await worker.clear_away()
            self._count_workers()

    def _learn(self, description: dict[str, Any]) -> None:
        seconds_per_pixel = description.pop("seconds_per_pixel")
        self.facts = EngineFacts(**description)
        self._line.costs.suppose(seconds_per_pixel)
        self._count_workers()

    def _count_workers(self) -> None:
        self._line.num_workers = max(1, sum(worker.is_warm for worker in self._workers))

    async def _feed(self, worker: RemoteWorker) -> None:
        """Gives a worker one batch after another, until its process is gone."""
        ending = asyncio.create_task(worker.watch())
        try:
            batch = await self._take_batch(ending)
            while batch is not None:
                if not await self._run(worker, batch):
                    return
                batch = await self._take_batch(ending)
        finally:
            ending.cancel()

    async def _take_batch(self, ending: asyncio.Task[None]) -> Batch | None:
        """The next batch; None if the worker ends before there is one."""
        taking = asyncio.create_task(self._line.next_batch())
        try:
            await asyncio.wait({taking, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not taking.done():
                taking.cancel()
        return taking.result() if taking.done() else None

    async def _run(self, worker: RemoteWorker, batch: Batch) -> bool:
        """Runs one batch; returns whether the worker can take another."""
        self._begin(batch)
        running = asyncio.create_task(worker.run(batch, self._timeout_s(batch)))
        try:
            await asyncio.shield(running)
        finally:
            # Also if the service stops: the process has the pixels in use until the batch is over.
            outcome = await running
            self._settle(batch, outcome)
        return outcome.failure is None or not outcome.failure.ended_worker

    def _timeout_s(self, batch: Batch) -> float:
        limits_s = (self._settings.batch_timeout_floor_s, self._settings.batch_timeout_s)
        return self._line.costs.hung_after_s(batch.bucket, len(batch.jobs), limits_s)

    def _begin(self, batch: Batch) -> None:
        now_s = time.monotonic()
        for job in batch.jobs:
            job.started_at_s = now_s
            # The batch outlives a client that leaves: its pixels must too.
            job.pixels.hold()
        self._metrics.batch_size.observe(len(batch.jobs))
        self._metrics.batch_shapes.observe(len({(job.height, job.width) for job in batch.jobs}))
        self._metrics.padding.observe(batch.padding_ratio)

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        for job in batch.jobs:
            job.pixels.release()
        if outcome.failure is not None:
            self._metrics.batch_failures.labels(outcome.failure.value).inc()
            for job in self._line.retry(batch, outcome.failure):
                job.done.set_exception(PoisonousImage())
        elif outcome.seconds is not None:
            self._line.finish(batch, outcome.seconds)
            for job, suspicion in zip(batch.jobs, outcome.suspicions, strict=True):
                if not job.done.done():
                    job.done.set_result(suspicion)

    def _give_up_waiting(self) -> None:
        """Answers everyone in line, unless a worker is there or on its way that could."""
        if self.warm_in_s is not None:
            return
        for job in self._line.take_all():
            if not job.done.done():
                job.done.set_exception(PurificationFailed())
