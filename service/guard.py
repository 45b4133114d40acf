"""The way of one request, in order: every stage is one method here, and one folder beside it.

admit (the gate, before a request comes here), decode, queue, purify, encode, forward, respond.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.requests import Request

from codefend.models.codec import ImageFormat
from codefend.models.prompts.templates import Template
from codefend.service.admit.body import read_body
from codefend.service.admit.house import House, HouseLimits
from codefend.service.admit.keys import KeyRing
from codefend.service.admit.visit import Visit
from codefend.service.decode.chat import Chat, ChatImage, ChatLimits
from codefend.service.decode.fields import FieldRules
from codefend.service.decode.stage import DecodeStage, naming_place
from codefend.service.encode.stage import EncodeStage
from codefend.service.errors import NotReady
from codefend.service.forward.breaker import BreakerPermit
from codefend.service.forward.completion import Answer, Completion, fill_gaps
from codefend.service.forward.embedded import EmbeddedModel
from codefend.service.forward.sse import AnswerStream
from codefend.service.forward.upstream import ModelList, make_upstream
from codefend.service.metrics import Metrics, Stage
from codefend.service.opening import Opening
from codefend.service.policy import Mode
from codefend.service.processes.pixels import Picture, PixelStore
from codefend.service.processes.supervision import Supervision
from codefend.service.purification import Purification
from codefend.service.purify.cache import PurifiedCache
from codefend.service.purify.model_version import ModelVersion, load_model_version
from codefend.service.purify.stage import PurifyStage
from codefend.service.queueing.costs import BatchCosts, Throughput
from codefend.service.queueing.line import Line
from codefend.service.queueing.policy import BatchLimits
from codefend.service.reload import Reloader
from codefend.service.settings import Settings
from codefend.service.stages import EngineFacts, Purified, Upload

__all__ = ["Guard"]

logger = logging.getLogger(__name__)

# What is received lies in pieces and then as a whole; later as its parts beside that.
BODY_COPIES = 2


class Guard:
    """Owns the stages: starts them, stops them, and leads requests through them."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        version = load_model_version(settings, 1)
        self.templates = version.templates
        self.keys = KeyRing(
            (key.get_secret_value() for key in settings.api_keys), settings.api_keys_file
        )
        throughput = Throughput(time.monotonic)
        limits = BatchLimits(
            settings.max_batch,
            settings.max_batch_pixels,
            settings.batch_wait_fraction,
            settings.batch_join_waste,
        )
        self.line = Line(
            limits, BatchCosts(), settings.max_queue, lambda: self.house.num_arriving, throughput
        )
        self.failure: str | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.supervision = Supervision(self._fail)

        def is_shared() -> bool:
            return self.keys.num_callers > 1

        house_limits = HouseLimits(
            settings.max_requests,
            is_shared=is_shared,
            deadline_s=settings.deadline_s,
            max_bytes=settings.max_memory_bytes,
        )
        self.house = House(house_limits, throughput.per_second)
        self.house.on_change = self.line.wake
        metrics.queue_depth.set_function(lambda: len(self.line))
        metrics.in_flight.set_function(lambda: self.house.num_inside)
        metrics.held_bytes.set_function(lambda: self.house.memory.num_held)
        restarts = metrics.worker_restarts
        self._pixels = PixelStore()
        directory = str(self._pixels.directory)
        self._decode = DecodeStage(settings, directory, restarts.labels("decode").inc, is_shared)
        self._encode = EncodeStage(
            settings.encode_workers, restarts.labels("encode").inc, is_shared
        )
        self._cache = PurifiedCache(settings.cache_bytes, settings.cache_lifetime_s)
        self.workers = PurifyStage(settings, self.line, metrics, version, self.supervision)
        self._purification = Purification(
            self.line, self.workers, self._cache, self._pixels, self.house.memory, metrics
        )
        self.reloader = Reloader(settings, self.workers, metrics, self._take_up)
        metrics.generation.set(version.number)
        self.embedded = (
            EmbeddedModel(
                settings.mllm, settings.worker_start_timeout_s, restarts.labels("mllm").inc
            )
            if settings.upstream_url is None
            else None
        )
        socket_path = self.embedded.socket_path if self.embedded else None
        self._upstream = make_upstream(settings, socket_path, metrics, is_shared)
        self._models = self._make_model_list()
        purifier = None if self.is_off else self.workers
        self.opening = Opening(purifier, self.embedded, self._upstream)

    def _make_model_list(self) -> ModelList:
        settings = self.settings
        return ModelList(
            lambda: self._upstream.list_models(time.monotonic() + settings.deadline_s),
            settings.models_lifetime_s,
            settings.deadline_s,
        )

    @property
    def is_warm(self) -> bool:
        """Whether requests can be served; an upstream of others is their own concern."""
        return self.opening.is_warm

    @property
    def is_off(self) -> bool:
        """Whether images go to the model as they were sent: then there is no purifier at all."""
        return self.settings.mode is Mode.OFF

    @property
    def engine_facts(self) -> EngineFacts | None:
        """What the purifier is; None where purification is off.

        Raises:
            NotReady: No worker has been warm yet.
        """
        if self.workers.facts is None and not self.is_off:
            raise NotReady
        return self.workers.facts

    def enter_model(self, visit: Visit) -> BreakerPermit:
        """Takes the leave to ask the model, once, before any work is done for its question.

        Raises:
            UpstreamDown: It is failing.
        """
        if visit.passage is None:
            visit.passage = self._upstream.enter(visit.caller, visit.deadline_s)
        return visit.passage

    async def start(self) -> None:
        """Starts every process; models load in the background."""
        if self.is_off:
            # Not even loaded: the switch has to work where the purifier is what is broken.
            logger.warning("purification is off: images reach the model as they were sent")
        else:
            self.workers.start()
        if self.embedded is not None:
            self.embedded.start(self.supervision)
        await self._decode.start(self.supervision)
        await self._encode.start(self.supervision)

    async def stop(self) -> None:
        """Ends every process, started or not; what goes wrong with one keeps none of the others."""
        async with AsyncExitStack() as ending:  # the last first
            ending.callback(self._pixels.close)
            ending.push_async_callback(self._encode.stop)
            ending.push_async_callback(self._decode.stop)
            if self.embedded is not None:
                ending.push_async_callback(self.embedded.stop)
            ending.push_async_callback(self.workers.stop)
            ending.push_async_callback(self._upstream.close)
            ending.push_async_callback(self._models.close)
            ending.push_async_callback(self.reloader.stop)

    def _fail(self, name: str) -> None:
        """Says that a part has failed without which the service only looks alive."""
        if self.failure is None:
            self.failure = name
            self.on_failure()

    def _take_up(self, version: ModelVersion) -> None:
        self.templates = version.templates
        self.metrics.generation.set(version.number)
        # What older weights made must not be sent as the new ones' work.
        self._cache.clear()

    async def read(self, visit: Visit, request: Request) -> bytes:
        """Stage admit, its last part: the body.

        Raises:
            BodyTooLarge: It is too long.
            BodyTimeout: It did not arrive in time.
            OutOfMemory: There is no memory for it now.
        """
        settings = self.settings
        left_s = max(0.0, visit.deadline_s - time.monotonic())
        timeout_s = min(settings.body_timeout_s, left_s)

        def take(num_bytes: int) -> None:
            self.house.memory.take(visit.caller, BODY_COPIES * num_bytes)
            visit.held_bytes += BODY_COPIES * num_bytes

        body = await read_body(request, settings.max_body_bytes, timeout_s, take)
        visit.timings.record_so_far(Stage.ADMIT)
        return body

    async def decode(self, visit: Visit, content_type: str, body: bytes) -> Upload:
        """Stage decode; the caller releases the upload.

        Raises:
            RequestRefused: The body or the image is at fault.
            Overloaded: So much is ahead of the picture that it would be answered too late.
            Unavailable: There is no purifier, no memory, or no process for it now.
        """
        with visit.timings.stage(Stage.DECODE):
            admit = partial(self._purification.admit, visit)
            upload = await self._decode.decode(content_type, body, visit.caller, admit)
        visit.facts["body_bytes"] = len(body)
        visit.images.append(upload.facts)
        return upload

    async def open_chat(self, visit: Visit, body: bytes, template: Template) -> Chat:
        """Stage decode, its first part for a chat: the images' files, and what is around them.

        Raises:
            RequestRefused: The body is at fault.
        """
        settings = self.settings
        limits = ChatLimits(settings.max_images, settings.max_answer_tokens, settings.max_choices)
        rules = FieldRules.of(settings, visit.policy.mode)
        with visit.timings.stage(Stage.DECODE):
            chat = await self._decode.open_chat(body, limits, template, rules, visit.caller)
        visit.facts["body_bytes"] = len(body)
        if visit.slot is not None and not chat.images:
            visit.slot.arrive()
        return chat

    async def decode_image(self, visit: Visit, image: ChatImage) -> Upload:
        """Stage decode, its second part for a chat; the caller releases the upload.

        Raises:
            RequestRefused: The image is at fault; the error names its place.
            Overloaded: As in `decode`; and Unavailable.
        """
        with visit.timings.stage(Stage.DECODE), naming_place(image.param):
            admit = partial(self._purification.admit, visit)
            # The image's own bytes say what it is; its URL's header is not asked.
            kind = "application/octet-stream"
            upload = await self._decode.decode(kind, image.file, visit.caller, admit)
        visit.images.append(upload.facts)
        return upload

    async def unwrap(
        self, visit: Visit, content_type: str, body: bytes
    ) -> tuple[ChatImage, dict[str, Any]]:
        """Stage decode, its first part where purification is off: the image's file, and its fields.

        Raises:
            RequestRefused: The body is at fault.
        """
        with visit.timings.stage(Stage.DECODE):
            file, fields = await self._decode.unwrap(content_type, body, visit.caller)
        visit.facts["body_bytes"] = len(body)
        return ChatImage(file, "image"), fields

    async def purify(self, visit: Visit, upload: Upload) -> Purified:
        """Stages queue and purify: fills the upload's second picture; see `Purification`."""
        return await self._purification.purify(visit, upload)

    async def encode(
        self, visit: Visit, upload: Upload, picture: Picture, image_format: ImageFormat
    ) -> bytes:
        """Stage encode: one of the upload's two pictures as a file."""
        with visit.timings.stage(Stage.ENCODE):
            return await self._encode.encode(upload, picture, image_format, visit.caller)

    async def forward(self, visit: Visit, completion: Completion) -> Answer:
        """Stage forward: the whole answer.

        Raises:
            UpstreamError: There is none.
        """
        with visit.timings.stage(Stage.FORWARD):
            return await self._upstream.complete(completion, self.enter_model(visit))

    async def forward_stream(self, visit: Visit, completion: Completion) -> AnswerStream:
        """Stage forward: an answer that has begun.

        Raises:
            UpstreamError: There is none.
        """
        with visit.timings.stage(Stage.FORWARD):
            return await self._upstream.stream(completion, self.enter_model(visit))

    async def relay(self, visit: Visit, chat: Chat, urls: Sequence[str]) -> bytes:
        """Stage forward for a chat: the whole answer, as the upstream wrote it.

        Args:
            visit: The request.
            chat: Taken apart.
            urls: What goes into its gaps: `data:` URLs.

        Raises:
            UpstreamError: There is none, or the upstream refused the request.
        """
        with visit.timings.stage(Stage.FORWARD):
            body = await self._fill(visit, chat, urls)
            return await self._upstream.relay(body, self.enter_model(visit))

    async def relay_stream(self, visit: Visit, chat: Chat, urls: Sequence[str]) -> AnswerStream:
        """Stage forward for a chat: an answer that has begun; the rest as in `relay`."""
        with visit.timings.stage(Stage.FORWARD):
            body = await self._fill(visit, chat, urls)
            return await self._upstream.relay_stream(body, self.enter_model(visit))

    async def list_models(self) -> bytes:
        """The upstream's models, as it writes them, or wrote them a moment ago.

        Raises:
            UpstreamError: It does not say.
        """
        return await self._models.get()

    async def _fill(self, visit: Visit, chat: Chat, urls: Sequence[str]) -> bytes:
        passage = self.enter_model(visit)
        model = None if chat.has_model else await self._upstream.default_model(passage)
        return fill_gaps(chat.fragments, urls, model)
