"""POST /v1/chat/completions: any conversation, with every image in it purified on the way.

GET /v1/models: the upstream's list.
"""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from codefend.models.prompts.templates import Task, Template
from codefend.service.context import RequestContext, run_with_deadline
from codefend.service.decode.chat import Chat
from codefend.service.errors import UnsupportedMedia
from codefend.service.forward.breaker import BreakerPermit
from codefend.service.forward.completion import ChatBody
from codefend.service.forward.sse import StreamSplicer, splice_answer
from codefend.service.pipeline import Pipeline
from codefend.service.policy import Disclosure
from codefend.service.respond import EventResponse, ImageReport, describe_chat, describe_defense
from codefend.service.schemas import chat_body, chat_responses, upstream_errors
from codefend.service.stages import Shielded

__all__ = ["build_chat", "build_models"]


def build_chat(pipeline: Pipeline) -> APIRouter:
    """Builds /v1/chat/completions."""
    router = APIRouter(tags=["chat"])

    @router.post(
        "/v1/chat/completions",
        response_model=None,
        responses=chat_responses(),
        openapi_extra=chat_body(),
    )
    async def complete(request: Request) -> Response:
        """OpenAI's chat: every image is purified, text goes to the model as it is.

        What is neither text nor an image that can be purified is refused, and so are fields that
        are not known. The answer is the
        upstream's, with a `codefend` object beside its choices: the last chunk's when it streams.
        """
        context: RequestContext = request.state.context
        content_type = request.headers.get("content-type", "").partition(";")[0]
        if content_type.strip().lower() != "application/json":
            msg = "Send application/json."
            raise UnsupportedMedia(msg, "content-type")
        body = await pipeline.read(context, request)
        permit = pipeline.take_permit(context)
        work = _answer(pipeline, context, body, permit)
        return await run_with_deadline(request, work, context.deadline_s)

    return router


async def _answer(
    pipeline: Pipeline, context: RequestContext, body: bytes, permit: BreakerPermit
) -> Response:
    template = pipeline.templates[Task.CHAT]
    chat = await pipeline.open_chat(context, body, template)
    images = await pipeline.shield_chat(context, chat)
    reports = _report(context, chat, images, template)
    filled = ChatBody(chat.fragments, [image.forwarded for image in images], chat.has_model)

    def describe() -> bytes:
        context.timings.begin_response()
        is_full = context.policy.disclose is Disclosure.FULL
        timings_ms = context.timings.milliseconds() if is_full else None
        return describe_chat(reports, timings_ms, with_images=chat.return_image)

    if chat.stream:
        stream = await pipeline.forward(context, pipeline.upstream.relay_stream(filled, permit))
        return EventResponse(context, stream, stream.passed_through(StreamSplicer(describe)))
    answer = await pipeline.forward(context, pipeline.upstream.relay(filled, permit))
    return Response(splice_answer(answer, describe()), media_type="application/json")


def _report(
    context: RequestContext, chat: Chat, images: list[Shielded], template: Template
) -> list[ImageReport]:
    """What is said of each image."""
    disclose = context.policy.disclose
    used = template if chat.used_template else None
    return [
        ImageReport(
            part.param,
            image.size,
            describe_defense(
                image.engine, used, disclose, bypassed=image.bypassed, purified=image.purification
            ),
            image.purified,
        )
        for part, image in zip(chat.images, images, strict=True)
    ]


def build_models(pipeline: Pipeline) -> APIRouter:
    """Builds /v1/models."""
    router = APIRouter(tags=["chat"])

    @router.get("/v1/models", response_model=dict[str, Any], responses=upstream_errors())
    async def models(request: Request) -> Response:
        """The models that the upstream serves, as it says it."""
        context: RequestContext = request.state.context
        answer = await run_with_deadline(request, pipeline.list_models(), context.deadline_s)
        return Response(answer, media_type="application/json")

    return router
