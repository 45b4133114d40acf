"""The service's hold on one worker process: starts it, gives it batches, watches it, ends it."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from service.processes.child import Child, ChildDied, ChildTimeout
from service.processes.heartbeat import BEAT_S, Listener
from service.purify.worker import WorkerConfig, make_worker
from service.queueing.line import Batch
from service.queueing.recovery import Failure

__all__ = ["Outcome", "RemoteWorker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: the seconds it took, or how it failed.

    Attributes:
        seconds: None if it failed.
        suspicions: Of each of its images; None where there is no detector.
        failure: None if it succeeded.
    """

    seconds: float | None = None
    suspicions: tuple[float | None, ...] = ()
    failure: Failure | None = None


class RemoteWorker:
    """One child process and the thread that talks to it; all methods belong to the event loop."""

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
        self.name = name
        self.is_warm = False
        self._child = Child(name, make_worker, config, beats=True)
        self._start_timeout_s = start_timeout_s
        self._silence_s = silence_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._last_start_s: float | None = None
        self._starting_since_s = 0.0

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        return self._child.pid

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
            description = await self._in_thread(self._start_blocking)
        except ChildDied:
            self._last_start_s = None
            raise
        self._last_start_s = time.monotonic() - self._starting_since_s
        self.is_warm = True
        return description

    async def watch(self) -> None:
        """Returns when the process has ended, or had to be ended as its heart beat no more."""
        listener = Listener(self._silence_s)
        while not self._child.has_ended():
            if not listener.hears(self._child.count_beats()):
                logger.error("%s is silent", self.name)
                self._child.kill()
            await asyncio.sleep(BEAT_S)

    async def run(self, batch: Batch, timeout_s: float) -> Outcome:
        """Runs one batch, and ends the process if it takes too long."""
        meta = {
            "bucket": [batch.bucket.height, batch.bucket.width],
            "images": [
                {"pixels": job.pixels.name, "height": job.height, "width": job.width}
                for job in batch.jobs
            ],
        }
        call = self._child.call
        try:
            answer = await self._in_thread(lambda: call(meta, b"", timeout_s)[0])
        except ChildTimeout:
            logger.error("%s is hung", self.name)
            return Outcome(failure=Failure.HUNG)
        except ChildDied as error:
            logger.error("%s", error)
            return Outcome(failure=Failure.DIED)
        if "failure" in answer:
            return Outcome(failure=Failure(answer["failure"]))
        return Outcome(float(answer["seconds"]), tuple(answer["suspicions"]))

    async def clear_away(self) -> None:
        """Ends what is left of a process that is of no more use, so that `start` may follow."""
        self.is_warm = False
        self._starting_since_s = time.monotonic()
        self._child.kill()
        await self._in_thread(self._child.stop)

    async def stop(self) -> None:
        """Ends the process for good: after its present batch, or at once if it is not warm yet."""
        if not self.is_warm:
            self._child.kill()
        self.is_warm = False
        self._last_start_s = None
        await self._in_thread(self._child.stop)
        self._thread.shutdown(wait=False)

    def _start_blocking(self) -> dict[str, Any]:
        self._child.launch()
        return self._child.wait_until_ready(self._start_timeout_s)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
