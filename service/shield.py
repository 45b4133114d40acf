"""What an image meets between decode and forward: the purifier, or nothing where it is off.

A `Shield` decodes an image, purifies it and encodes it. `DiffusionShield` purifies; `PassThrough`
(`CODEFEND_MODE=off`) hands on what was sent: then there is no purifier at all, not even loaded. In
shadow mode the model gets the original, and `DiffusionShield` runs beside it all the same.

An image is let in when its size is known, before any of its pixels is decoded. One that was
purified of late waits for nobody. Any other needs a place in the queue from which it can be
answered in time; and every one needs memory, reserved before it is used.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Protocol

from codefend.models.codec import ImageFormat
from codefend.models.detector.calibration import FLAG_ABOVE, suspicion_of_tiles
from codefend.models.tiles import Tiling
from codefend.service.admit.limits import RETRY_AFTER_S, MemoryBudget
from codefend.service.context import RequestContext
from codefend.service.decode.chat import ChatImage
from codefend.service.decode.stage import DecodeStage, naming_place
from codefend.service.encode.stage import EncodeStage
from codefend.service.errors import (
    ImageFlagged,
    NotReady,
    OutOfMemory,
    PurificationFailed,
    PurificationOff,
)
from codefend.service.formats.table import identify
from codefend.service.metrics import Metrics, Stage
from codefend.service.policy import Mode, OnFlagged, OnPurifyFailure
from codefend.service.processes.pixels import (
    Picture,
    PixelLease,
    PixelStore,
    bytes_of_lease,
    read_pixels,
)
from codefend.service.purify.stage import PurifiedCache, PurifyStage, Replay
from codefend.service.queueing.image_queue import ImageQueue
from codefend.service.stages import (
    Admitted,
    DecodedImage,
    EngineFacts,
    Incoming,
    Original,
    PictureHeader,
    Purified,
    jobs_of,
)

__all__ = [
    "DiffusionShield",
    "ImageStages",
    "PassThrough",
    "Shield",
    "as_url",
    "choose_picture",
]

logger = logging.getLogger(__name__)

# The system clears what it reserves: above this it takes longer than the way to a thread and back.
SMALL_LEASE_BYTES = 1 << 22
OnFlaggedImage = Callable[[RequestContext, DecodedImage], None]


def choose_picture(
    mode: Mode, on_purify_failure: OnPurifyFailure, *, was_purified: bool
) -> tuple[Picture, str | None]:
    """Chooses the picture to forward: failing closed or open is decided here alone.

    Args:
        mode: In shadow mode, and where purification is off, the model sees the original.
        on_purify_failure: Whether an original may take the place of a picture that failed.
        was_purified: Whether there is a purified picture.

    Returns:
        The picture, and if that is not the purified one, why.

    Raises:
        PurificationFailed: There is none, and nothing else may be forwarded.
    """
    if mode is not Mode.ENFORCE:
        return Picture.DECODED, mode.value
    if was_purified:
        return Picture.PURIFIED, None
    if on_purify_failure is OnPurifyFailure.PASS:
        return Picture.DECODED, "purify_failure"
    raise PurificationFailed


class Shield(Protocol):
    """The stages decode, queue, purify and encode of one image, in this order."""

    @property
    def is_warm(self) -> bool:
        """Whether images can be served."""

    @property
    def facts(self) -> EngineFacts | None:
        """What the purifier is; None where there is none. NotReady: none has been warm yet."""

    def check_purifies(self) -> None:
        """Refuses where nobody could get a purified image.

        Raises:
            PurificationOff: Purification is off.
        """

    async def decode(self, context: RequestContext, content_type: str, body: bytes) -> Incoming:
        """Takes a body of one image apart; the caller releases what it gets."""

    async def decode_image(self, context: RequestContext, image: ChatImage) -> Incoming:
        """Decodes one image of a chat; the caller releases what it gets."""

    async def purify(self, context: RequestContext, picture: Incoming) -> Purified | None:
        """Fills an upload's second picture; None for an image that is passed on as it was sent."""

    async def encode(
        self,
        context: RequestContext,
        image: DecodedImage,
        which: Picture,
        image_format: ImageFormat,
        *,
        in_url: bool = False,
    ) -> bytes:
        """One of an upload's two pictures as a file, or that in a `data:` URL."""


class PassThrough:
    """Purification is off: images go to the model as they were sent, named and not decoded."""

    is_warm = True
    facts = None

    def __init__(self, decode: DecodeStage) -> None:
        self._decode = decode

    def check_purifies(self) -> None:
        """Refuses."""
        raise PurificationOff

    async def decode(self, context: RequestContext, content_type: str, body: bytes) -> Original:
        """Takes the image's file and its fields out of a body.

        Raises:
            RequestRefused: The body is at fault.
        """
        file, fields = await self._decode.unwrap(content_type, body, context.caller)
        return Original(file, "image", fields)

    async def decode_image(self, context: RequestContext, image: ChatImage) -> Original:
        """Leaves it as it is."""
        return Original(image.file, image.param)

    async def purify(self, context: RequestContext, picture: Incoming) -> None:
        """Does nothing."""

    async def encode(self, *_: object, **__: object) -> bytes:
        """Refuses: there is no purified image."""
        raise PurificationOff


async def as_url(
    shield: Shield,
    context: RequestContext,
    picture: Incoming,
    which: Picture,
    image_format: ImageFormat,
) -> bytes:
    """What the model gets of an image, as a `data:` URL: what was sent as it was sent.

    Purified pictures are written in `image_format`; of others every pixel is kept.

    Raises:
        RequestRefused: What was sent is of no format that is taken; the error names its place.
        Unavailable: No process could encode it.
    """
    if isinstance(picture, DecodedImage):
        written = image_format if which is Picture.PURIFIED else ImageFormat.PNG
        return await shield.encode(context, picture, which, written, in_url=True)
    with context.timings.stage(Stage.DECODE), naming_place(picture.param):
        sent = await identify(picture.file)
    picture.facts.update(sent.facts)
    context.images.append(picture.facts)
    return sent.url


@dataclass(frozen=True, slots=True)
class ImageStages:
    """The stages that an image goes through.

    Attributes:
        decode, queue, purify, encode: They.
        cache: What was purified of late.
        pixels: Where pixels lie.
        memory: How many bytes there may be.
        tiling: How large pictures are cut.
    """

    decode: DecodeStage
    queue: ImageQueue
    purify: PurifyStage
    encode: EncodeStage
    cache: PurifiedCache
    pixels: PixelStore
    memory: MemoryBudget
    tiling: Tiling


class DiffusionShield:
    """Purifies every image by diffusion; all methods belong to the event loop."""

    def __init__(self, stages: ImageStages, metrics: Metrics, on_flagged: OnFlaggedImage) -> None:
        """Takes the stages, where is counted, and who is told of an image that looks attacked."""
        self._stages, self._metrics, self._on_flagged = stages, metrics, on_flagged

    @property
    def is_warm(self) -> bool:
        """Whether at least one worker takes batches."""
        return self._stages.purify.is_warm

    @property
    def facts(self) -> EngineFacts | None:
        """What the present purifier is; NotReady where no worker has been warm yet."""
        facts = self._stages.purify.facts
        if facts is None:
            raise NotReady
        return facts

    def check_purifies(self) -> None:
        """Lets everything pass."""

    async def decode(self, context: RequestContext, content_type: str, body: bytes) -> DecodedImage:
        """Makes pixels of a body of one image.

        Raises:
            RequestRefused: The body or the image is at fault.
            CodefendError: The image was not let in; see `_admit`.
        """
        admit = partial(self._admit, context)
        upload = await self._stages.decode.decode(content_type, body, context.caller, admit)
        context.images.append(upload.facts)
        return upload

    async def decode_image(self, context: RequestContext, image: ChatImage) -> DecodedImage:
        """Makes pixels of one image of a chat.

        Raises:
            RequestRefused: The image is at fault; the error names its place.
            CodefendError: The image was not let in; see `_admit`.
        """
        # The image's own bytes say what it is; its URL's header is not asked.
        with naming_place(image.param):
            return await self.decode(context, "application/octet-stream", image.file)

    async def purify(self, context: RequestContext, picture: Incoming) -> Purified | None:
        """Fills an upload's second picture, or replays what its bytes were purified to of late.

        Raises:
            Overloaded: The queue is full.
            PurificationFailed: The picture could not be purified.
            ImageFlagged: It looks attacked, and such pictures are refused.
        """
        if isinstance(picture, Original):
            return None
        upload, replay = picture, picture.admitted.context
        if isinstance(replay, Replay):
            await asyncio.to_thread(upload.admitted.pixels.write, Picture.PURIFIED, replay.pixels)
            self._metrics.cached.inc()
            return self._judge(context, upload, replay.suspicion, replay.engine, cached=True)
        suspicion, engine = await self._purify_anew(context, upload)
        cache = self._stages.cache
        if cache.is_on:
            place = (upload.admitted.pixels.name, Picture.PURIFIED)
            fresh = await asyncio.to_thread(read_pixels, *place, upload.height, upload.width)
            if engine.model_version == self._stages.purify.model_version:
                seen = (context.caller, upload.sha256, context.policy.strength)
                cache.keep(*seen, Replay(fresh, suspicion, engine))
        return self._judge(context, upload, suspicion, engine, cached=False)

    async def encode(
        self,
        context: RequestContext,
        image: DecodedImage,
        which: Picture,
        image_format: ImageFormat,
        *,
        in_url: bool = False,
    ) -> bytes:
        """One of an upload's two pictures as a file, or that in a `data:` URL.

        Raises:
            Unavailable: No process could do it.
        """
        written = (image, which, image_format, context.caller)
        with context.timings.stage(Stage.ENCODE):
            return await self._stages.encode.encode(*written, in_url=in_url)

    async def _admit(self, context: RequestContext, header: PictureHeader) -> Admitted:
        """Decides on a picture: one that is let in holds memory, and a place or a replay.

        Raises:
            NotReady: There is no purifier, or none for too long; or StrengthUnavailable.
            ImageTooSlow: It would take too long by itself; Overloaded: with what is ahead of it.
            OutOfMemory: There is no memory for it now.
        """
        tiles = self._stages.tiling.cut(header.height, header.width)
        cache, queue = self._stages.cache, self._stages.queue
        strength = context.policy.strength
        self._stages.purify.check_strength(strength)
        replay = cache.find(context.caller, header.sha256, strength) if cache.is_on else None
        with ExitStack() as holding:
            if replay is None:
                sizes = [(tile.height, tile.width) for tile in tiles]
                given = (context.deadline_s, context.whole_s)
                place = queue.reserve(context.caller, sizes, *given, strength)
                holding.callback(queue.withdraw, place)
            pixels = await self._lease(context, header.height * header.width, len(tiles))
            holding.callback(pixels.release)
            release = holding.pop_all().close
        if replay is None:
            return Admitted(pixels, release, context=place)
        # In shadow mode the model sees what was sent, and that is not kept.
        is_seen = context.policy.mode is Mode.SHADOW
        height, width, _ = replay.pixels.shape
        return Admitted(pixels, release, None if is_seen else (height, width), context=replay)

    def _judge(
        self,
        context: RequestContext,
        upload: DecodedImage,
        suspicion: float | None,
        engine: EngineFacts,
        *,
        cached: bool,
    ) -> Purified:
        """Records the suspicion, and refuses what is flagged where the policy says so."""
        flagged = None if suspicion is None else suspicion > FLAG_ABOVE
        strength = context.policy.strength.value
        upload.facts.update(cached=cached, strength=strength, suspicion=suspicion, flagged=flagged)
        if suspicion is not None:
            self._metrics.suspicion.observe(suspicion)
        if flagged:
            self._metrics.flagged.inc()
            if not cached:  # then its first picture was not even decoded
                self._on_flagged(context, upload)
            is_enforced = context.policy.mode is Mode.ENFORCE
            if is_enforced and context.policy.on_flagged is OnFlagged.REFUSE:
                raise ImageFlagged(param="image")
        return Purified(suspicion, flagged, cached, engine)

    async def _purify_anew(
        self, context: RequestContext, upload: DecodedImage
    ) -> tuple[float | None, EngineFacts]:
        """Waits for all tiles of a picture, or for the one that it is; if one fails, all do."""
        queue, jobs = self._stages.queue, jobs_of(context, upload, self._stages.tiling)
        queue.put(*jobs)
        try:
            suspicions = await asyncio.gather(*(job.done for job in jobs))
        finally:
            queue.remove(*jobs)
            for job in jobs:
                job.done.cancel()
            ended_s = time.monotonic()
            started = [job.started_at_s for job in jobs if job.started_at_s is not None]
            started_s = min(started, default=ended_s)
            context.timings.record(Stage.QUEUE, jobs[0].queued_at_s, started_s)
            if started:
                context.timings.record(Stage.PURIFY, started_s, ended_s)
        # During a reload two versions may share the tiles of a picture: it counts as the older's.
        engine = min((job.made_by for job in jobs), key=attrgetter("model_version"))
        return suspicion_of_tiles(suspicions), engine

    async def _lease(self, context: RequestContext, num_pixels: int, num_tiles: int) -> PixelLease:
        held, memory = (context.caller, bytes_of_lease(num_pixels)), self._stages.memory
        memory.take(*held)
        give_back = partial(memory.give, *held)
        try:
            lease = partial(self._stages.pixels.lease, num_pixels, give_back, num_tiles)
            return lease() if held[1] <= SMALL_LEASE_BYTES else await asyncio.to_thread(lease)
        except OSError as error:
            give_back()
            logger.warning("no shared memory for a picture: %s", error.strerror)
            raise OutOfMemory(retry_after_s=RETRY_AFTER_S) from error
