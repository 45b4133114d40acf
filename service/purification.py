"""One picture on its way through the purifier: let in, queued, purified or replayed, and judged.

It is let in when its size is known, before any of its pixels is decoded. A picture that was
purified of late waits for nobody. Any other needs a place in line from which it can be answered in
time; and every one needs memory, reserved before it is used.
"""

import asyncio
import logging
import time
from functools import partial
from math import ceil

from codefend.service.admit.memory import RETRY_AFTER_S, MemoryBudget
from codefend.service.admit.visit import Visit
from codefend.service.errors import ImageFlagged, NotReady, OutOfMemory
from codefend.service.metrics import Metrics, Stage
from codefend.service.opening import WARM_UP_S
from codefend.service.policy import Mode, OnFlagged
from codefend.service.processes.pixels import (
    Picture,
    PixelLease,
    PixelStore,
    bytes_of_lease,
    read_pixels,
)
from codefend.service.purify.cache import PurifiedCache, Replay
from codefend.service.purify.stage import PurifyStage
from codefend.service.queueing.line import Line
from codefend.service.stages import Admitted, EngineFacts, Job, PictureHeader, Purified, Upload

__all__ = ["Purification"]

logger = logging.getLogger(__name__)

# The system clears what it reserves: above this it takes longer than the way to a thread and back.
SMALL_LEASE_BYTES = 1 << 22


class Purification:
    """Leads pictures through the stages queue and purify; all methods belong to the event loop."""

    def __init__(
        self,
        line: Line,
        workers: PurifyStage,
        cache: PurifiedCache,
        store: PixelStore,
        memory: MemoryBudget,
        metrics: Metrics,
    ) -> None:
        """Takes what a picture needs.

        Args:
            line: Where pictures wait for the purifier.
            workers: The purifier.
            cache: What was purified of late.
            store: Where pixels lie.
            memory: How many bytes there may be.
            metrics: Where replays and suspicions are counted.
        """
        self._line = line
        self._workers = workers
        self._cache = cache
        self._store = store
        self._memory = memory
        self._metrics = metrics

    async def admit(self, visit: Visit, header: PictureHeader) -> Admitted:
        """Decides on a picture; what is admitted holds memory, and a place in line or a replay.

        Raises:
            NotReady: There is no purifier, and none is expected.
            ImageTooSlow: It takes so long by itself that nobody could wait for it.
            Overloaded: So much is ahead of it that it would be answered too late.
            OutOfMemory: There is no memory for it now.
        """
        num_pixels = header.height * header.width
        replay = self._cache.find(visit.caller, header.sha256)
        if replay is not None:
            pixels = await self._lease(visit, num_pixels)
            # In shadow mode the model sees what was sent, and that is not kept.
            is_seen = visit.policy.mode is Mode.SHADOW
            height, width, _ = replay.pixels.shape
            return Admitted(pixels, None if is_seen else (height, width), context=replay)
        if self._workers.warm_in_s is None:
            raise NotReady(retry_after_s=ceil(WARM_UP_S))
        times = (visit.deadline_s, visit.whole_s)
        reservation = self._line.reserve(visit.caller, header.height, header.width, *times)
        give_back = partial(self._line.withdraw, reservation)
        try:
            pixels = await self._lease(visit, num_pixels)
        except BaseException:
            give_back()
            raise
        return Admitted(pixels, context=reservation, give_back=give_back)

    async def purify(self, visit: Visit, upload: Upload) -> Purified:
        """Stages queue and purify: fills the upload's second picture.

        A replay is what the same caller's same file was purified to of late.

        Raises:
            Overloaded: The line is full.
            PurificationFailed: The picture could not be purified.
            ImageFlagged: It looks attacked, and such pictures are refused.
        """
        replay = upload.admitted.context
        if isinstance(replay, Replay):
            await asyncio.to_thread(upload.pixels.write, Picture.PURIFIED, replay.pixels)
            if visit.slot is not None:
                visit.slot.arrive()
            self._metrics.cached.inc()
            return self._judge(visit, upload, Purified(replay.suspicion, True, replay.engine))
        suspicion, engine = await self._purify_anew(visit, upload)
        if self._cache.is_on:
            place = (upload.pixels.name, Picture.PURIFIED)
            fresh = await asyncio.to_thread(read_pixels, *place, upload.height, upload.width)
            if engine.model_version == self._workers.model_version:
                self._cache.keep(visit.caller, upload.sha256, Replay(fresh, suspicion, engine))
        return self._judge(visit, upload, Purified(suspicion, False, engine))

    def _judge(self, visit: Visit, upload: Upload, purified: Purified) -> Purified:
        """Records the suspicion, and refuses what is flagged where the policy says so."""
        upload.facts["cached"] = purified.cached
        upload.facts["suspicion"] = purified.suspicion
        upload.facts["flagged"] = purified.flagged
        if purified.suspicion is not None:
            self._metrics.suspicion.observe(purified.suspicion)
        if purified.flagged:
            self._metrics.flagged.inc()
            is_enforced = visit.policy.mode is Mode.ENFORCE
            if is_enforced and visit.policy.on_flagged is OnFlagged.REFUSE:
                raise ImageFlagged(param="image")
        return purified

    async def _purify_anew(self, visit: Visit, upload: Upload) -> tuple[float | None, EngineFacts]:
        now_s = time.monotonic()
        size = (upload.height, upload.width)
        reservation = upload.admitted.context
        job = Job(upload.pixels, *size, visit.deadline_s, now_s, visit.caller, reservation)
        self._line.join(job)
        if visit.slot is not None:
            visit.slot.arrive()
        try:
            return await job.done, job.made_by
        finally:
            self._line.leave(job)
            ended_s = time.monotonic()
            started_s = job.started_at_s or ended_s
            visit.timings.record(Stage.QUEUE, job.queued_at_s, started_s)
            if job.started_at_s is not None:
                visit.timings.record(Stage.PURIFY, started_s, ended_s)

    async def _lease(self, visit: Visit, num_pixels: int) -> PixelLease:
        memory, caller, num_bytes = self._memory, visit.caller, bytes_of_lease(num_pixels)
        memory.take(caller, num_bytes)
        give_back = partial(memory.give, caller, num_bytes)
        try:
            if num_bytes <= SMALL_LEASE_BYTES:
                return self._store.lease(num_pixels, give_back)
            return await asyncio.to_thread(self._store.lease, num_pixels, give_back)
        except OSError as error:
            give_back()
            logger.warning("no shared memory for a picture: %s", error.strerror)
            raise OutOfMemory(retry_after_s=RETRY_AFTER_S) from error
