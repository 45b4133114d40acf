"""The way of one request, stage by stage, and what each stage may refuse.

1. **admit** (`admit/`). `AdmissionMiddleware` runs before anything here: it refuses a missing or
   wrong key (401 Unauthorized, 400 AmbiguousKey), a strange host without keys (403 WrongHost), a
   path that the key may not use (403 EndpointForbidden), a body on a GET (400 UnexpectedBody), more
   than a key's rate or share (429 RateLimited, KeyBusy), more than the service takes (429
   Overloaded), and everything while it drains or warms up (503 ShuttingDown, NotReady) or while the
   model is failing (503 UpstreamDown). `Pipeline.read` then reads the body, and refuses one that is
   too long or too slow (413 BodyTooLarge, 408 BodyTimeout) or that there is no memory for (503
   OutOfMemory).
2. **decode** (`decode/`). Sandboxed processes take the body apart. Refused are malformed bodies and
   fields (400 InvalidBody, MissingField, InvalidField, UnknownField, ClosedField, ImageInText,
   UnsupportedContent; 415 UnsupportedMedia), and images that are damaged, elsewhere, too many, too
   large or of another format (400 InvalidImage, AnimatedImage, RemoteImage, TooManyImages; 413
   ImageTooLarge; 415 UnsupportedImage). Before its pixels are decoded, an image needs memory and a
   place in the queue: 413 ImageTooSlow, 429 Overloaded, 503 NotReady or OutOfMemory.
3. **queue** (`queueing/`). Images wait for a batch, each caller in turn: 429 Overloaded.
4. **purify** (`purify/`). A worker per device purifies a batch: 503 PurificationFailed or
   PoisonousImage, and 400 ImageFlagged where the policy refuses what looks attacked.
5. **encode** (`encode/`). The image that the model gets becomes a file: 503 Unavailable.
6. **forward** (`forward/`). The model is asked: UpstreamError and its kind (502, 503, 504; what it
   refuses of a chat: 400, 404, 413, 422; 429 UpstreamBusy).
7. **respond** (`respond.py`). The answer, and what the defence did, go to the client. A request
   whose time is over is answered with 504 DeadlineExceeded at any stage.

The stages are siblings that know nothing of each other: here alone they stand in their order. What
an image meets between decode and forward is a `Shield`: see `shield.py`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from math import ceil
from typing import Any, TypeVar

from starlette.requests import Request

from codefend.models.prompts.templates import Template
from codefend.service.admit.limits import MemoryBudget
from codefend.service.admit.middleware import read_body
from codefend.service.context import RequestContext, gather_or_cancel
from codefend.service.decode.chat import Chat, ChatImage, ChatLimits, field_rules
from codefend.service.decode.stage import DecodeStage, naming_place
from codefend.service.errors import (
    WARM_UP_S,
    AnimatedImage,
    ImageTooLarge,
    InvalidImage,
    NotReady,
    PurificationFailed,
)
from codefend.service.forward.breaker import BreakerPermit
from codefend.service.forward.embedded import EmbeddedModel
from codefend.service.forward.upstream import ModelList, Upstream
from codefend.service.ledger import StateLedger
from codefend.service.metrics import Metrics, Stage
from codefend.service.policy import ImageVerdict, Mode
from codefend.service.processes.pixels import Picture
from codefend.service.prompts import Prompts
from codefend.service.protocols.base import Protocol
from codefend.service.protocols.fields import Findings
from codefend.service.settings import Settings
from codefend.service.shield import Shield, as_url, choose_picture
from codefend.service.stages import DecodedImage, Incoming, Original, Purified, Shielded

__all__ = ["Pipeline"]

logger = logging.getLogger(__name__)

FieldsT = TypeVar("FieldsT")
T = TypeVar("T")

# What is received lies in pieces and then as a whole; later as its parts beside that.
BODY_COPIES = 2
WITHOUT_MODEL = frozenset({"/v1/guardrail", "/v1/purify"})


class Pipeline:
    """Leads requests through the stages; all methods belong to the event loop.

    Attributes:
        settings: Read anew for every request.
        metrics: Where bypasses and findings are counted.
        shield: What an image meets between decode and forward.
        upstream: The model.
        prompts: What goes to the model beside questions; it changes when weights are reloaded.
        ledger: What callers may refer to.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        prompts: Prompts,
        memory: MemoryBudget,
        decode: DecodeStage,
        shield: Shield,
        model: tuple[Upstream, EmbeddedModel | None],
    ) -> None:
        """Takes the stages.

        Args:
            settings: Limits of a request.
            metrics: Where bypasses and findings are counted.
            prompts: What goes to the model beside questions.
            memory: How many bytes there may be.
            decode: Takes chats apart.
            shield: What an image meets.
            model: The upstream, and the embedded model if that is what stands there.
        """
        self.settings = settings
        self.metrics = metrics
        self.prompts = prompts
        self.shield = shield
        self.ledger = StateLedger(settings.max_state_ids)
        self._memory = memory
        self._decode = decode
        self.upstream, self._embedded = model
        self._models = ModelList(
            lambda: self.upstream.list_models(time.monotonic() + settings.deadline_s),
            settings.models_lifetime_s,
            settings.deadline_s,
        )

    # Stage admit

    @property
    def is_warm(self) -> bool:
        """Whether requests can be served; an upstream of others is their own concern."""
        return self.shield.is_warm and (self._embedded is None or self._embedded.is_warm)

    def check_ready(self, path: str) -> None:
        """Refuses what could not be served, now or after waiting.

        The purifier is not asked here: a request may have no picture, or one that is known.

        Raises:
            NotReady: There is no model yet.
            UpstreamDown: The path needs the model, and it is failing; or ProtocolNotServed.
        """
        if path in WITHOUT_MODEL:
            return
        if self._embedded is not None and not self._embedded.is_warm:
            raise NotReady(retry_after_s=ceil(WARM_UP_S))
        self.upstream.check(path)

    async def read(self, context: RequestContext, request: Request) -> bytes:
        """Reads the body within its bounds.

        Raises:
            BodyTooLarge: It is too long.
            BodyTimeout: It did not arrive in time.
            OutOfMemory: There is no memory for it now.
        """
        settings = self.settings
        left_s = max(0.0, context.deadline_s - time.monotonic())

        def take(num_bytes: int) -> None:
            self._memory.take(context.caller, BODY_COPIES * num_bytes)
            give_back = partial(self._memory.give, context.caller, BODY_COPIES * num_bytes)
            context.on_finish.append(give_back)

        timeout_s = min(settings.body_timeout_s, left_s)
        body = await read_body(request, settings.max_body_bytes, timeout_s, take)
        context.timings.record_so_far(Stage.ADMIT)
        context.facts["body_bytes"] = len(body)
        return body

    def take_permit(self, context: RequestContext) -> BreakerPermit:
        """Takes the permit to ask the model, before any work is done for its question.

        It is given back when the request is over.

        Raises:
            UpstreamDown: The model is failing.
        """
        permit = self.upstream.breaker.enter(context.caller, context.deadline_s)
        context.on_finish.append(permit.leave)
        return permit

    # Stage decode

    async def decode(self, context: RequestContext, content_type: str, body: bytes) -> Any:
        """Takes the body of one image apart; the caller releases what it gets.

        Raises:
            RequestRefused: The body or the image is at fault.
            Overloaded: So much is ahead of the picture that it would be answered too late.
            Unavailable: There is no purifier, no memory, or no process for it now.
        """
        with context.timings.stage(Stage.DECODE):
            return await self.shield.decode(context, content_type, body)

    async def open_chat(
        self, context: RequestContext, protocol: Protocol, body: bytes, template: Template | None
    ) -> Chat:
        """Takes a conversation apart: its images' files, and what is around them.

        Raises:
            RequestRefused: The body is at fault.
        """
        rules = field_rules(self.settings, context.policy.mode)
        placing = self.prompts.placing(self.settings, template)
        reading = (protocol, ChatLimits.of(self.settings), placing, rules)
        with context.timings.stage(Stage.DECODE):
            chat = await self._decode.open_chat(body, reading, context.caller)
        self.ledger.check(context, chat)
        self.note_findings(context, chat.findings)
        return chat

    async def open_images(self, context: RequestContext, body: bytes) -> tuple[ChatImage, ...]:
        """Takes a list of images apart.

        Raises:
            RequestRefused: The body is at fault.
        """
        with context.timings.stage(Stage.DECODE):
            return await self._decode.open_images(body, self.settings.max_images, context.caller)

    def note_findings(self, context: RequestContext, findings: Findings) -> None:
        """Counts the fields that passed unrefused or were taken out; the log line names them."""
        for verdict, count in findings.counts.items():
            self.metrics.fields.labels(verdict).inc(count)
        if findings.counts:
            context.facts["fields"] = {"verdicts": dict(findings.counts), "names": findings.names}

    async def _decode_images(
        self, context: RequestContext, images: Sequence[ChatImage], decoded: dict[str, Any]
    ) -> None:
        """Decodes all images before any is purified: what is refused costs no purification.

        `decoded` is filled by the images' places; the caller releases them, come what may.
        """
        # A conversation takes no more decoders than there are: others wait for them too.
        decoders = asyncio.Semaphore(self.settings.decode_workers)
        num_pixels, most = 0, self.settings.max_request_pixels

        async def decode(image: ChatImage) -> None:
            nonlocal num_pixels
            async with decoders:
                with context.timings.stage(Stage.DECODE):
                    picture = await self._decode_image(context, image)
            decoded[image.param] = picture
            if isinstance(picture, DecodedImage):
                num_pixels += picture.height * picture.width
            if num_pixels > most:
                msg = f"The images have over {most} pixels together; send fewer, or smaller ones."
                raise ImageTooLarge(msg, image.param)

        await gather_or_cancel(decode(image) for image in images)

    async def _decode_image(self, context: RequestContext, image: ChatImage) -> Incoming:
        try:
            return await self.shield.decode_image(context, image)
        except (InvalidImage, AnimatedImage):
            if context.policy.mode is not Mode.SHADOW:
                raise
            # In shadow mode the model gets what cannot be decoded as it was sent.
            return Original(image.file, image.param)

    # Stage queue, purify, encode

    async def purify(self, context: RequestContext, upload: Incoming) -> Purified | None:
        """Waits for a batch and purifies an image, or replays what it was purified to of late.

        Raises:
            Overloaded: The queue is full.
            PurificationFailed: The image could not be purified.
            ImageFlagged: It looks attacked, and such images are refused.
        """
        with context.guarding(upload.facts):
            purified = await self.shield.purify(context, upload)
        was_queued = purified is not None and not purified.cached
        if context.slot is not None and not was_queued:
            context.slot.mark_enqueued()
        return purified

    async def shield_image(
        self, context: RequestContext, picture: Incoming, *, is_shown: bool = True
    ) -> Shielded:
        """Queue, purify and encode of one image for a model: chooses what the model sees of it.

        Args:
            context: The request.
            picture: Decoded, or as it was sent.
            is_shown: Whether the caller wants to see the purified image.

        Raises:
            PurificationFailed: It failed, and no policy lets the original take its place.
            ImageFlagged: As in `purify`; and Overloaded.
        """
        purified: Purified | None = None
        with contextlib.suppress(PurificationFailed):
            purified = await self.purify(context, picture)
        policy, was_purified = context.policy, purified is not None
        which, reason = choose_picture(
            policy.mode, policy.on_purify_failure, was_purified=was_purified
        )
        image_format = self.settings.forward_format
        write = partial(as_url, self.shield, context, picture, image_format=image_format)
        forwarded = await write(which)
        size = (picture.width, picture.height) if isinstance(picture, DecodedImage) else None
        engine = self.shield.facts if purified is None else purified.engine
        if reason is None:
            return Shielded(forwarded, forwarded, engine, purified, bypassed=False, size=size)
        self._note_bypass(context, picture.facts, reason)
        shows = was_purified and is_shown
        shown = await write(Picture.PURIFIED) if shows else None
        return Shielded(forwarded, shown, engine, purified, bypassed=True, size=size)

    def _note_bypass(self, context: RequestContext, facts: dict[str, Any], reason: str) -> None:
        self.metrics.bypass.labels(reason).inc()
        facts.update(bypassed=reason, verdict=ImageVerdict.ALLOW)
        fields = {"request_id": context.request_id, "reason": reason}
        logger.warning("an unpurified image is forwarded", extra={"fields": fields})

    async def shield_upload(
        self,
        context: RequestContext,
        content_type: str,
        body: bytes,
        read_fields: Callable[[dict[str, Any]], FieldsT],
    ) -> tuple[FieldsT, Shielded]:
        """Decode to encode of a body with one image.

        Args:
            context: The request.
            content_type: Of the body.
            body: The image, in any envelope.
            read_fields: Validates the fields beside it, before anything is purified.

        Raises:
            CodefendError: As in `decode`, `shield_image`, and whatever `read_fields` raises.
        """
        picture = await self.decode(context, content_type, body)
        try:
            fields = read_fields(picture.fields)
            return fields, await self.shield_image(context, picture)
        finally:
            picture.release()

    async def shield_images(
        self, context: RequestContext, images: Sequence[ChatImage], *, are_shown: bool
    ) -> list[Shielded]:
        """Decode to encode of all images of a request, in their order.

        Raises:
            CodefendError: As in `decode` and `shield_image`; the error names the image's place.
        """
        if context.slot is not None and not images:
            context.slot.mark_enqueued()
        decoded: dict[str, Any] = {}

        async def shield(param: str) -> Shielded:
            with naming_place(param):
                return await self.shield_image(context, decoded[param], is_shown=are_shown)

        try:
            await self._decode_images(context, images, decoded)
            return await gather_or_cancel(shield(image.param) for image in images)
        finally:
            for picture in decoded.values():
                picture.release()

    # Stage forward

    async def forward(self, context: RequestContext, asking: Coroutine[Any, Any, T]) -> T:
        """Asks the model: `upstream.complete`, `stream`, `relay` or `relay_stream`.

        Raises:
            UpstreamError: There is no answer, or the upstream refused the request.
        """
        with context.timings.stage(Stage.FORWARD):
            return await asking

    async def list_models(self) -> bytes:
        """The upstream's models, as it writes them, or wrote them a moment ago.

        Raises:
            NotReady: The embedded model is not warm yet.
            UpstreamError: The upstream does not say.
        """
        if self._embedded is not None and not self._embedded.is_warm:
            raise NotReady(retry_after_s=ceil(WARM_UP_S))
        return await self._models.get()

    async def close(self) -> None:
        """Asks the upstream no longer."""
        await self._models.close()
