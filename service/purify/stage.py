"""The service's side of the purify stage: the pool that serves, and what was purified of late.

At every moment one pool takes the batches; an older one ends those that it has begun.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray

from codefend.models.purifier.strengths import Strength
from codefend.service.errors import PurificationFailed, StrengthUnavailable
from codefend.service.metrics import Metrics
from codefend.service.processes.supervision import Supervision
from codefend.service.purify.model_version import ModelVersion, UnfitModelVersion
from codefend.service.purify.pool import WorkerPool
from codefend.service.settings import Settings
from codefend.service.stages import BatchSource, EngineFacts

__all__ = ["PurifiedCache", "PurifyStage", "Replay"]

# In levels of 255, on average. A plain grey picture comes back nearly as it was from any purifier:
# one that moves it by an eighth of the range is broken, or its weights are.
MOST_GREY_DISTANCE = 32.0


class PurifyStage:
    """The workers of the present model version; all methods belong to the event loop."""

    def __init__(
        self,
        settings: Settings,
        queue: BatchSource,
        metrics: Metrics,
        version: ModelVersion,
        supervision: Supervision,
    ) -> None:
        self._supervision = supervision
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._pool = self._make_pool(version)
        self._draining: set[asyncio.Task[None]] = set()
        queue.pause_s = self._pool.pause_s
        queue.num_workers = 1

    @property
    def is_warm(self) -> bool:
        """Whether at least one worker has run a batch of its own and waits for more."""
        return self._pool.num_warm > 0

    @property
    def warm_in_s(self) -> float | None:
        """Seconds until a worker should take batches, 0 if one does; None if that is unknown."""
        return self._pool.warm_in_s

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the living workers of the present version."""
        return self._pool.pids

    @property
    def model_version(self) -> int:
        """The number of the model version that takes batches."""
        return self._pool.version.number

    @property
    def facts(self) -> EngineFacts | None:
        """What the present purifier is; None before one was warm."""
        return self._pool.facts

    def check_strength(self, strength: Strength) -> None:
        """Refuses a strength that the present purifier does not have.

        Raises:
            StrengthUnavailable: It has others.
        """
        if self.facts is not None and not self.facts.has(strength):
            raise StrengthUnavailable

    def start(self) -> None:
        """Begins to load the workers, in the background."""
        self._pool.start(self._supervision)
        self._pool.start_accepting()

    async def prepare(self, version: ModelVersion) -> WorkerPool:
        """Starts workers of a new version beside the present ones, and tries them out.

        Returns:
            They are warm and take no batches yet.

        Raises:
            UnfitModelVersion: They cannot serve, and are gone again.
        """
        pool = self._make_pool(version)
        pool.start(self._supervision)
        try:
            await pool.wait_until_warm()
            _check(pool)
            return pool
        except (UnfitModelVersion, asyncio.CancelledError):
            await pool.drain()
            raise
        except Exception as error:
            await pool.drain()
            raise UnfitModelVersion("not_warm", str(error)) from error

    def switch(self, pool: WorkerPool) -> None:
        """Lets a prepared pool take all further batches; the old one ends what it has begun."""
        old, self._pool = self._pool, pool
        old.stop_accepting()
        self._queue.pause_s = pool.pause_s
        self._queue.forget_costs()
        self._count(pool)
        pool.start_accepting()
        draining = asyncio.create_task(old.drain())
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)

    async def stop(self) -> None:
        """Ends the workers after their present batches."""
        await asyncio.gather(self._pool.drain(), *self._draining)
        self._give_up_waiting()

    def _make_pool(self, version: ModelVersion) -> WorkerPool:
        return WorkerPool(version, self._settings, self._queue, self._metrics, self._count)

    def _count(self, pool: WorkerPool) -> None:
        """Tells the queue what it may count on, if this is the pool that serves it."""
        if pool is not self._pool:
            return
        self._queue.num_workers = max(1, pool.num_warm)
        measured = pool.take_measurement()
        if measured is not None:
            self._queue.suppose_cost(measured)
        self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        """Answers everyone who waits, unless a worker is there or on its way that could."""
        if self.warm_in_s is not None:
            return
        for job in self._queue.take_all():
            if not job.done.done():
                job.done.set_exception(PurificationFailed())


def _check(pool: WorkerPool) -> None:
    if pool.grey_distance > MOST_GREY_DISTANCE:
        reason = f"it turns grey by {pool.grey_distance:.0f} of 255 levels"
        raise UnfitModelVersion("bad_output", reason)


@dataclass(frozen=True, slots=True)
class Replay:
    """What is replayed.

    Attributes:
        pixels: (H, W, 3) uint8, purified.
        suspicion: Of the upload; None where there was no detector.
        engine: What purified it.
    """

    pixels: NDArray[np.uint8]
    suspicion: float | None
    engine: EngineFacts


class PurifiedCache:
    """Keeps pictures, so that a client who resends its history pays for each of them once.

    Two uploads are the same when the same caller sends the same bytes of a file, and they are to be
    purified as strongly. Nobody is answered
    with what another caller sent: whether an image was seen before is a secret of its own. The most
    recently used pictures stay. All methods belong to the event loop's thread.

    Attributes:
        is_on: Whether anything is kept at all.
    """

    def __init__(
        self, max_bytes: int, lifetime_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins empty.

        Args:
            max_bytes: Most memory of all pictures together; 0 keeps none.
            lifetime_s: How long a picture is replayed. Its noise is drawn anew afterwards.
            clock: Seconds.
        """
        self.is_on = max_bytes > 0
        self._replays: TTLCache[tuple[str, str, Strength], Replay] = TTLCache(
            max_bytes, lifetime_s, clock, getsizeof=lambda replay: replay.pixels.nbytes
        )

    @property
    def num_bytes(self) -> int:
        """Memory of all pictures together."""
        return int(self._replays.currsize)

    def find(self, caller: str, sha256: str, strength: Strength) -> Replay | None:
        """What a caller's file was purified to; None where there is nothing to replay.

        Args:
            caller: Whose file it is.
            sha256: Of the file's bytes.
            strength: How strongly it is to be purified.
        """
        return self._replays.get((caller, sha256, strength))

    def keep(self, caller: str, sha256: str, strength: Strength, replay: Replay) -> None:
        """Keeps a purified picture, at the expense of those unused for longest."""
        if replay.pixels.nbytes <= self._replays.maxsize:
            self._replays[caller, sha256, strength] = replay

    def clear(self) -> None:
        """Forgets all pictures."""
        self._replays.clear()
