"""The service's hold on one worker process: starts it, gives it batches, watches it, ends it."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from codefend.service.processes.child import Child, ChildDied, ChildTimeout, LaunchFailed
from codefend.service.processes.messages import ask_nothing
from codefend.service.processes.supervision import SupervisedChild
from codefend.service.purify.worker import WorkerConfig, make_worker
from codefend.service.stages import Batch, BatchFailure

__all__ = ["Outcome", "RemoteWorker"]

logger = logging.getLogger(__name__)


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
    failure: BatchFailure | None = None


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

    async def run(self, batch: Batch, timeout_s: float) -> Outcome:
        """Runs one batch, and ends the process if it takes too long."""
        meta = {
            "bucket": [batch.bucket.height, batch.bucket.width],
            "images": [
                {"pixels": job.pixels.name, "height": job.height, "width": job.width}
                for job in batch.jobs
            ],
        }
        try:
            answer, _ = await self.call(meta, b"", timeout_s, ask_nothing)
        except ChildTimeout:
            logger.error("%s is hung", self.name)
            return Outcome(failure=BatchFailure.HUNG)
        except ChildDied as error:
            logger.error("%s", error)
            return Outcome(failure=BatchFailure.DIED)
        if "failure" in answer:
            return Outcome(failure=BatchFailure(answer["failure"]))
        return Outcome(float(answer["seconds"]), tuple(answer["suspicions"]))

    async def clear_away(self) -> None:
        """Ends what is left of a process that is of no more use, so that `start` may follow."""
        self._starting_since_s = time.monotonic()
        await super().clear_away()

    async def stop(self) -> None:
        """Ends the process for good: after its present batch, or at once if it is not warm yet."""
        self._last_start_s = None
        await super().stop()
