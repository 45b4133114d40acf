"""Stage respond: the answer, the purified image, what the defence did, and the time it took.

Whole answers are written by the endpoints, from what is described here. Streams go out as
server-sent events: the upstream's own chunks, and what was done beside the last.
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from codefend.models.prompts.templates import Template
from codefend.service.context import RequestContext
from codefend.service.errors import ClientLeft, CodefendError
from codefend.service.metrics import Stage
from codefend.service.policy import Disclosure, Policy
from codefend.service.protocols.base import openai_error_event
from codefend.service.schemas import Defense, NamedVersion
from codefend.service.stages import EngineFacts, Purified

__all__ = [
    "EventResponse",
    "ImageReport",
    "describe_chat",
    "describe_defense",
    "stream_answer",
    "with_image",
    "with_images",
]

_DONE = b"data: [DONE]\n\n"
# Proxies on the way must not gather chunks.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def describe_defense(
    engine: EngineFacts | None,
    template: Template | None,
    policy: Policy,
    *,
    bypassed: bool,
    purified: Purified | None,
) -> Defense:
    """Builds the `defense` object of a response.

    Args:
        engine: What purified the image, or would have; None where there is no purifier.
        template: The prompt template; None where no model is asked.
        policy: How strongly it was purified; and what is disclosed: `minimal` gives names and
            nothing measured, lest it serve as an oracle.
        bypassed: Whether the model saw the image unpurified.
        purified: What purification said of the image; None if it failed.
    """
    full = policy.disclose is Disclosure.FULL
    levels = engine.levels_at(policy.strength) if engine and engine.has(policy.strength) else ()
    return Defense(
        purifier=engine and NamedVersion(name=engine.name, version=engine.version),
        strength=policy.strength if full and engine else None,
        steps=len(levels) if full and engine else None,
        noise_level=levels[0] if full and levels else None,
        prompt_template=(
            None if template is None else NamedVersion(name=template.name, version=template.version)
        ),
        suspicion=purified.suspicion if full and purified else None,
        flagged=purified.flagged if full and purified else None,
        bypassed=bypassed,
        cached=purified is not None and purified.cached,
    )


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What was done with one image.

    Attributes:
        param: Its place in the request.
        size: Width and height in pixels; None for an image that was passed on as it was sent.
        defense: What the defence did.
        purified_image: A `data:` URL; None where there is none.
    """

    param: str
    size: tuple[int, int] | None
    defense: Defense
    purified_image: bytes | None


def with_image(document: bytes, url: bytes | None) -> bytes:
    """Puts a purified image into compact JSON whose `purified_image` is an empty text so far.

    Megabytes of base64 need no escaping, and are not searched for what would; texts that speak of
    such a field have their quotes escaped.

    Args:
        document: The JSON.
        url: A `data:` URL; None where there is nothing to show, and the field is null.
    """
    if url is None:
        return document
    head, gap, tail = document.partition(b'"purified_image":""')
    return b"".join((head, gap[:-1], url, gap[-1:], tail))


def with_images(document: bytes, urls: Sequence[bytes]) -> bytes:
    """Puts images into compact JSON whose list `images` is empty so far, as `with_image` does."""
    if not urls:
        return document
    head, gap, tail = document.partition(b'"images":[]')
    pieces = [piece for url in urls for piece in (b'","', url)][1:]
    return b"".join((head, gap[:-1], b'"', *pieces, b'"', gap[-1:], tail))


def describe_chat(
    images: Sequence[ImageReport], timings_ms: dict[str, float] | None, *, with_images: bool
) -> bytes:
    """Writes the object as JSON.

    Args:
        images: In the order of the conversation.
        timings_ms: Milliseconds by stage; None where they are not disclosed.
        with_images: Whether the caller asked to see the purified images.
    """
    pieces = [
        piece
        for image in images
        for piece in (b",", *_describe_image(image, with_image=with_images))
    ][1:]
    timings = json.dumps(timings_ms).encode()
    return b"".join((b'{"images":[', *pieces, b'],"timings_ms":', timings, b"}"))


def _describe_image(image: ImageReport, *, with_image: bool) -> tuple[bytes, ...]:
    width, height = image.size or (None, None)
    fields: dict[str, Any] = {
        "param": image.param,
        "width": width,
        "height": height,
        "defense": image.defense.model_dump(),
    }
    if not with_image:
        return (json.dumps(fields).encode(),)
    if image.purified_image is None:
        return (json.dumps(fields | {"purified_image": None}).encode(),)
    return (
        json.dumps(fields).encode()[:-1],
        b',"purified_image":"',
        image.purified_image,
        b'"}',
    )


class EventSource(Protocol):
    """The upstream's stream."""

    def payloads(self) -> AsyncIterator[str]:
        """Yields each event's data."""

    async def close(self) -> None:
        """Lets the upstream know that nobody listens any more."""


def stream_answer(
    context: RequestContext,
    answer: EventSource,
    describe: Callable[[], dict[str, Any]],
    url: bytes | None,
) -> StreamingResponse:
    """Passes the answer to a question on as it comes.

    The last chunk before `[DONE]` has no choices and a `codefend` object; clients of OpenAI's
    protocol read past it. If the upstream breaks off, an `error` event takes its place.

    Args:
        context: The request.
        answer: The upstream's stream; closed here, however it ends.
        describe: Makes the `codefend` object, once all stages are over.
        url: The purified image, for its empty field; None where there is nothing to show.
    """

    async def events() -> AsyncIterator[bytes]:
        async for payload in answer.payloads():
            yield f"data: {payload}\n\n".encode()
        last = {"object": "chat.completion.chunk", "choices": [], "codefend": describe()}
        written = json.dumps(last, separators=(",", ":")).encode()
        yield b"data: " + with_image(written, url) + b"\n\n"
        yield _DONE

    return EventResponse(context, answer, events())


class EventResponse(StreamingResponse):
    """Events on their way; if the upstream breaks off, an `error` event is the last.

    The upstream's stream is closed when the last byte is sent, or when the client has left.
    """

    def __init__(
        self, context: RequestContext, answer: EventSource, events: AsyncIterator[bytes]
    ) -> None:
        super().__init__(
            _with_error_event(context, events), headers=_HEADERS, media_type="text/event-stream"
        )
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.close()


async def _with_error_event(
    context: RequestContext, events: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    outcome, context.outcome = context.outcome, ClientLeft.code  # unless the last event is taken
    try:
        with context.timings.stage(Stage.FORWARD):
            async for event in events:
                yield event
        context.outcome = outcome
    except CodefendError as error:
        context.outcome = error.code
        write = openai_error_event if context.protocol is None else context.protocol.error_event
        # Whatever line was begun before it broke off is over: an event begins after an empty line.
        yield b"\n\n" + write(error, context.request_id)
