"""The service's side of the purify stage: workers that take batches from the line.

A worker that dies is replaced. The jobs of a failed batch run once more, each by itself; a job that
fails again is answered with PurificationFailed. None is lost.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from service.errors import PurificationFailed
from service.metrics import Metrics
from service.processes.child import Child, ChildDied
from service.purify.devices import resolve_devices
from service.purify.engine import EngineFacts, EngineOptions
from service.purify.worker import WorkerConfig, make_worker
from service.queueing.line import Batch, Line
from service.settings import Settings

__all__ = ["PurifyStage"]

logger = logging.getLogger(__name__)

RESTART_PAUSE_S = 2.0

T = TypeVar("T")


class PurifyStage:
    """One supervised worker process per device."""

    def __init__(self, settings: Settings, line: Line, metrics: Metrics) -> None:
        self._settings = settings
        self._line = line
        self._metrics = metrics
        devices = resolve_devices(settings.devices)
        line.num_workers = len(devices)
        self._workers = [
            _Worker(index, self._config(device), settings) for index, device in enumerate(devices)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self.facts: EngineFacts | None = None

    @property
    def is_warm(self) -> bool:
        """Whether at least one worker has run a batch of its own and waits for more."""
        return any(worker.is_warm for worker in self._workers)

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

    async def _supervise(self, worker: "_Worker") -> None:
        """Keeps one worker alive and fed, for ever."""
        while True:
            try:
                description = await worker.start()
            except ChildDied as error:
                logger.error("%s did not start: %s", worker.name, error)
                self._give_up_waiting()
                await asyncio.sleep(RESTART_PAUSE_S)
                continue
            self._learn(description)
            logger.info("%s is warm", worker.name)
            with contextlib.suppress(ChildDied):
                while True:
                    await self._run_next(worker)
            self._metrics.worker_restarts.labels("purify").inc()
            logger.error("%s died and is replaced", worker.name)

    def _learn(self, description: dict[str, Any]) -> None:
        seconds_per_pixel = description.pop("seconds_per_pixel")
        self.facts = EngineFacts(**description)
        self._line.costs.suppose(seconds_per_pixel)

    async def _run_next(self, worker: "_Worker") -> None:
        """Runs one batch.

        Raises:
            ChildDied: The worker is gone; its jobs are already taken care of.
        """
        batch = await self._line.next_batch()
        self._measure(batch)
        seconds: float | None = None
        try:
            seconds = await worker.run(batch)
        finally:
            self._line.finish(batch, seconds)
            self._settle(batch, succeeded=seconds is not None)

    def _measure(self, batch: Batch) -> None:
        now_s = time.monotonic()
        for job in batch.jobs:
            job.started_at_s = now_s
            # The batch outlives a client that leaves: its pixels must too.
            job.pixels.hold()
        self._metrics.batch_size.observe(len(batch.jobs))
        self._metrics.batch_shapes.observe(len({(job.height, job.width) for job in batch.jobs}))
        self._metrics.padding.observe(batch.padding_ratio)

    def _settle(self, batch: Batch, *, succeeded: bool) -> None:
        for job in batch.jobs:
            job.pixels.release()
            if job.done.done():
                continue
            if succeeded:
                job.done.set_result(None)
            elif job.alone:
                job.done.set_exception(PurificationFailed())
            else:
                self._line.rejoin(job)

    def _give_up_waiting(self) -> None:
        """Answers everyone in line when no worker is left that could."""
        if self.is_warm:
            return
        for job in self._line.take_all():
            if not job.done.done():
                job.done.set_exception(PurificationFailed())


class _Worker:
    """One child process and the thread that talks to it."""

    def __init__(self, index: int, config: WorkerConfig, settings: Settings) -> None:
        self.name = f"purify-{index}"
        self.is_warm = False
        self._child = Child(self.name, make_worker, config)
        self._start_timeout_s = settings.worker_start_timeout_s
        self._batch_timeout_s = settings.batch_timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self.name)

    @property
    def pid(self) -> int | None:
        return self._child.pid

    async def start(self) -> dict[str, Any]:
        """Starts the process and waits until it is warm.

        Raises:
            ChildDied: It did not become warm.
        """
        description = await self._in_thread(self._start_blocking)
        self.is_warm = True
        return description

    async def run(self, batch: Batch) -> float | None:
        """Runs one batch; returns its seconds, or None if the engine failed.

        Raises:
            ChildDied: The process is gone.
        """
        meta = {
            "bucket": [batch.bucket.height, batch.bucket.width],
            "images": [
                {"pixels": job.pixels.name, "height": job.height, "width": job.width}
                for job in batch.jobs
            ],
        }
        call = self._child.call
        try:
            answer = await self._in_thread(lambda: call(meta, b"", self._batch_timeout_s)[0])
        except ChildDied:
            self.is_warm = False
            raise
        return answer.get("seconds")

    async def stop(self) -> None:
        self.is_warm = False
        await self._in_thread(self._child.stop)
        self._thread.shutdown(wait=False)

    def _start_blocking(self) -> dict[str, Any]:
        self._child.launch()
        return self._child.wait_until_ready(self._start_timeout_s)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
