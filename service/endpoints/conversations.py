"""Conversations in every protocol, with every image in them purified on the way; and the models.

POST /v1/chat/completions, and each other path that `service/protocols/` describes. GET /v1/models:
the upstream's list, and GET /v1/models/{id}: one of it.
"""

import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from codefend.models.prompts.templates import Task, Template
from codefend.service.context import RequestContext, run_with_deadline
from codefend.service.decode.chat import Chat
from codefend.service.decode.wire import check_json
from codefend.service.errors import NotFound, UpstreamNotFound
from codefend.service.forward.breaker import BreakerPermit
from codefend.service.forward.completion import ChatBody
from codefend.service.forward.sse import StreamSplicer, splice_answer
from codefend.service.pipeline import Pipeline
from codefend.service.policy import Disclosure
from codefend.service.protocols.base import Protocol, all_protocols
from codefend.service.respond import EventResponse, ImageReport, describe_chat, describe_defense
from codefend.service.schemas import (
    ErrorResponse,
    conversation_body,
    conversation_responses,
    upstream_errors,
)
from codefend.service.stages import Shielded

__all__ = ["build_conversations", "build_models"]


def build_conversations(pipeline: Pipeline) -> APIRouter:
    """Builds the path of every protocol."""
    router = APIRouter(tags=["conversations"])
    for protocol in all_protocols().values():
        _add_path(router, pipeline, protocol)
    return router


def _add_path(router: APIRouter, pipeline: Pipeline, protocol: Protocol) -> None:
    async def converse(request: Request) -> Response:
        context: RequestContext = request.state.context
        check_json(request.headers.get("content-type", ""))
        body = await pipeline.read(context, request)
        permit = pipeline.take_permit(context)
        headers = protocol.headers_for_upstream(request.headers)
        work = _answer(pipeline, context, protocol, body, headers, permit)
        return await run_with_deadline(request, work, context.deadline_s)

    async def refuse() -> None:
        raise NotFound(protocol.not_below)

    if protocol.not_below:
        below = protocol.path + "/{rest:path}"
        router.add_api_route(
            below, refuse, methods=["GET", "POST", "DELETE"], include_in_schema=False
        )
    router.add_api_route(
        protocol.path,
        converse,
        methods=["POST"],
        name=protocol.name,
        description=protocol.description,
        response_model=None,
        responses=conversation_responses(protocol),
        openapi_extra=conversation_body(protocol),
    )


async def _answer(
    pipeline: Pipeline,
    context: RequestContext,
    protocol: Protocol,
    body: bytes,
    headers: dict[str, str],
    permit: BreakerPermit,
) -> Response:
    template = pipeline.prompts.template(pipeline.settings, context, Task.CHAT)
    chat = await pipeline.open_chat(context, protocol, body, template)
    writing = pipeline.prompts.begin(context, template, chat.questions)
    images = await pipeline.shield_images(context, chat.images, are_shown=chat.return_image)
    prompts = await writing
    is_silent = template is not None and not template.instructions
    used = prompts[-1] if prompts else template if is_silent else None
    reports = _report(context, chat, images, used)
    forwarded = [
        (image.forwarded, part.is_source) for image, part in zip(images, chat.images, strict=True)
    ]
    filled = ChatBody(
        protocol, chat.fragments, forwarded, chat.has_model, headers, chat.gaps, prompts
    )

    def describe() -> bytes:
        context.timings.begin_response()
        is_full = context.policy.disclose is Disclosure.FULL
        timings_ms = context.timings.milliseconds() if is_full else None
        return describe_chat(reports, timings_ms, with_images=chat.return_image)

    if chat.stream and protocol.make_reader is not None:
        stream = await pipeline.forward(context, pipeline.upstream.relay_stream(filled, permit))
        reader = protocol.make_reader()

        def finish() -> bytes:
            pipeline.ledger.remember(context, reader.ids)
            return describe()

        splicer = StreamSplicer(reader, finish, protocol.report_in)
        return EventResponse(context, stream, stream.passed_through(splicer))
    answer, ids = await pipeline.forward(context, pipeline.upstream.relay(filled, permit))
    pipeline.ledger.remember(context, ids)
    return Response(splice_answer(answer, describe()), media_type="application/json")


def _report(
    context: RequestContext, chat: Chat, images: list[Shielded], used: Template | None
) -> list[ImageReport]:
    """What is said of each image."""
    policy = context.policy
    return [
        ImageReport(
            part.param,
            image.size,
            describe_defense(
                image.engine, used, policy, bypassed=image.bypassed, purified=image.purification
            ),
            image.purified,
        )
        for part, image in zip(chat.images, images, strict=True)
    ]


def build_models(pipeline: Pipeline) -> APIRouter:
    """Builds /v1/models, and the path of each of them."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", response_model=dict[str, Any], responses=upstream_errors())
    async def models(request: Request) -> Response:
        """The models that the upstream serves, as it says it."""
        context: RequestContext = request.state.context
        answer = await run_with_deadline(request, pipeline.list_models(), context.deadline_s)
        return Response(answer, media_type="application/json")

    @router.get(
        "/v1/models/{model:path}",
        response_model=dict[str, Any],
        responses=upstream_errors() | {404: {"model": ErrorResponse, "description": "Not listed."}},
    )
    async def one_model(request: Request, model: str) -> Response:
        """One of these models, as the list has it."""
        context: RequestContext = request.state.context
        answer = await run_with_deadline(request, pipeline.list_models(), context.deadline_s)
        listed = json.loads(answer)["data"]
        found = next((entry for entry in listed if entry.get("id") == model), None)
        if found is None:
            raise UpstreamNotFound(param="model")
        return Response(json.dumps(found), media_type="application/json")

    return router
