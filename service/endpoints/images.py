"""POST /v1/purify, /v1/caption and /v1/vqa: one image comes in; a model sees it purified only.

POST /v1/guardrail: several come in, and the gateway that asks puts what comes out in their places.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from codefend.models.codec import ImageFormat
from codefend.models.prompts.templates import Task, Template
from codefend.service.context import RequestContext, run_with_deadline
from codefend.service.decode.values import find_text_image
from codefend.service.decode.wire import check_json
from codefend.service.errors import ImageFlagged, ImageInText, InvalidField, MissingField
from codefend.service.forward.breaker import BreakerPermit
from codefend.service.forward.completion import Completion
from codefend.service.pipeline import Pipeline
from codefend.service.policy import Disclosure, Mode
from codefend.service.processes.pixels import Picture
from codefend.service.protocols.fields import Findings
from codefend.service.respond import describe_defense, stream_answer, with_image, with_images
from codefend.service.schemas import (
    AskFields,
    CaptionFields,
    CaptionResponse,
    GuardrailFields,
    GuardrailResponse,
    PurifyFields,
    PurifyResponse,
    VqaFields,
    VqaResponse,
    error_responses,
    request_body,
)
from codefend.service.stages import Shielded

__all__ = ["build_ask", "build_guardrail", "build_purify"]

FieldsT = TypeVar("FieldsT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells the two endpoints with a question apart."""

    task: Task
    text_field: str
    fields: type[AskFields]
    response: type[CaptionResponse] | type[VqaResponse]
    question_field: str

    def question_of(self, fields: AskFields) -> str | None:
        """What is asked; None where the usual is."""
        question: str | None = getattr(fields, self.question_field)
        return question


_CAPTION = _Kind(Task.CAPTION, "caption", CaptionFields, CaptionResponse, "prompt")
_VQA = _Kind(Task.VQA, "answer", VqaFields, VqaResponse, "question")


def build_purify(pipeline: Pipeline) -> APIRouter:
    """Builds /v1/purify."""
    router = APIRouter(tags=["images"])

    @router.post(
        "/v1/purify",
        response_model=PurifyResponse,
        responses=error_responses(),
        openapi_extra=request_body(PurifyFields),
    )
    async def purify(request: Request) -> Response:
        """Purifies an image; with `Accept: image/*` the answer is the image itself.

        An image that cannot be purified is always answered with 503: this endpoint never returns
        an unpurified image under the name of a purified one.
        """
        pipeline.shield.check_purifies()
        context: RequestContext = request.state.context
        body = await pipeline.read(context, request)
        work = _purify(pipeline, context, request, body)
        return await run_with_deadline(request, work, context.deadline_s)

    return router


async def _purify(
    pipeline: Pipeline, context: RequestContext, request: Request, body: bytes
) -> Response:
    upload = await pipeline.decode(context, request.headers.get("content-type", ""), body)
    try:
        fields = _parse_fields(PurifyFields, {**request.query_params, **upload.fields})
        image_format = fields.output_format or pipeline.settings.forward_format
        raw_format = _raw_format(request.headers.get("accept", ""), image_format)
        image_format = raw_format or image_format
        purified = await pipeline.purify(context, upload)
        encoded = await pipeline.shield.encode(
            context, upload, Picture.PURIFIED, image_format, in_url=raw_format is None
        )
    finally:
        upload.release()
    context.timings.begin_response()
    if raw_format is not None:
        return Response(encoded, media_type=raw_format.media_type)
    disclose = context.policy.disclose
    answer = PurifyResponse(
        purified_image="",
        width=upload.width,
        height=upload.height,
        defense=describe_defense(
            None if purified is None else purified.engine,
            None,
            context.policy,
            bypassed=False,
            purified=purified,
        ),
        timings_ms=context.timings.milliseconds() if disclose is Disclosure.FULL else None,
    )
    return _written(with_image(answer.model_dump_json().encode(), encoded))


def _written(document: bytes) -> Response:
    return Response(document, media_type="application/json")


def _raw_format(accept: str, output_format: ImageFormat) -> ImageFormat | None:
    """The format for a bare image, if that is what the client prefers; None for JSON."""
    for entry in accept.lower().split(","):
        media_type = entry.partition(";")[0].strip()
        if media_type == "image/*":
            return output_format
        if media_type.removeprefix("image/") in set(ImageFormat):
            return ImageFormat(media_type.removeprefix("image/"))
        if media_type in {"application/json", "application/*", "*/*"}:
            return None
    return None


def build_guardrail(pipeline: Pipeline) -> APIRouter:
    """Builds /v1/guardrail."""
    router = APIRouter(tags=["images"])
    content = {"application/json": {"schema": GuardrailFields.model_json_schema()}}

    @router.post(
        "/v1/guardrail",
        response_model=GuardrailResponse,
        responses=error_responses(),
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def guardrail(request: Request) -> Response:
        """Purifies the images of somebody else's request: for gateways that ask a guard.

        The verdict is `modify` where the model may see the purified images alone, `allow` where it
        may see what was sent (in shadow mode, and where purification is off), and `deny` where an
        image is refused because it looks attacked. Whatever else than 200 comes: the gateway has
        to refuse the request.
        """
        context: RequestContext = request.state.context
        check_json(request.headers.get("content-type", ""))
        body = await pipeline.read(context, request)
        work = _guard(pipeline, context, body)
        return await run_with_deadline(request, work, context.deadline_s)

    return router


async def _guard(pipeline: Pipeline, context: RequestContext, body: bytes) -> Response:
    files = await pipeline.open_images(context, body)
    urls: list[bytes] = []
    try:
        images = await pipeline.shield_images(context, files, are_shown=False)
    except ImageFlagged as refusal:
        context.outcome = refusal.code
        reason = f"{refusal.param}: {refusal.public_message}"
        answer = GuardrailResponse(
            verdict="deny", images=[], suspicion=None, flagged=None, reason=reason
        )
    else:
        is_full = context.policy.disclose is Disclosure.FULL
        found = [image.purification for image in images]
        urls = [image.forwarded for image in images]
        answer = GuardrailResponse(
            verdict="allow" if all(image.bypassed for image in images) else "modify",
            images=[],
            suspicion=[each and each.suspicion for each in found] if is_full else None,
            flagged=[each and each.flagged for each in found] if is_full else None,
        )
    context.timings.begin_response()
    return _written(with_images(answer.model_dump_json().encode(), urls))


def build_ask(pipeline: Pipeline) -> APIRouter:
    """Builds /v1/caption and /v1/vqa."""
    router = APIRouter(tags=["questions"])
    upstream_errors: dict[int | str, dict[str, Any]] = {
        502: {"description": "The model behind the service gave no answer."}
    }

    @router.post(
        "/v1/caption",
        response_model=CaptionResponse,
        responses=error_responses() | upstream_errors,
        openapi_extra=request_body(CaptionFields),
    )
    async def caption(request: Request) -> Response:
        """Purifies an image and has the model describe it."""
        return await _ask(pipeline, _CAPTION, request)

    @router.post(
        "/v1/vqa",
        response_model=VqaResponse,
        responses=error_responses() | upstream_errors,
        openapi_extra=request_body(VqaFields),
    )
    async def vqa(request: Request) -> Response:
        """Purifies an image and asks the model a question about it."""
        return await _ask(pipeline, _VQA, request)

    return router


async def _ask(pipeline: Pipeline, kind: _Kind, request: Request) -> Response:
    context: RequestContext = request.state.context
    body = await pipeline.read(context, request)
    permit = pipeline.take_permit(context)
    work = _answer(pipeline, kind, request, body, permit)
    return await run_with_deadline(request, work, context.deadline_s)


async def _answer(
    pipeline: Pipeline, kind: _Kind, request: Request, body: bytes, permit: BreakerPermit
) -> Response:
    context: RequestContext = request.state.context
    content_type = request.headers.get("content-type", "")
    prompts = pipeline.prompts
    template = prompts.template(pipeline.settings, context, kind.task)

    def read_fields(sent: dict[str, Any]) -> tuple[AskFields, asyncio.Future[list[Template]]]:
        fields = _read_fields(pipeline, kind, request, sent)
        question = kind.question_of(fields) or prompts.templates[kind.task].default_question
        return fields, prompts.begin(context, template, [question or ""])

    (fields, writing), image = await pipeline.shield_upload(
        context, content_type, body, read_fields
    )
    template = next(iter(await writing), None)
    asked = template or prompts.templates[kind.task].without_prompt()
    completion = Completion(
        prompt=asked.fill(kind.question_of(fields)),
        image_url=image.forwarded,
        model=fields.model,
        max_tokens=fields.max_tokens,
        temperature=fields.temperature,
    )
    describe = partial(_describe, template, context, image)
    if fields.stream:
        stream = await pipeline.forward(context, pipeline.upstream.stream(completion, permit))
        return stream_answer(context, stream, describe, image.purified)
    answer = await pipeline.forward(context, pipeline.upstream.complete(completion, permit))
    filled = kind.response(**{kind.text_field: answer.text}, usage=answer.usage, **describe())
    return _written(with_image(filled.model_dump_json().encode(), image.purified))


def _read_fields(
    pipeline: Pipeline, kind: _Kind, request: Request, sent: dict[str, Any]
) -> AskFields:
    """Validates what came beside the image.

    Raises:
        InvalidField: A field has a value that is not allowed; and MissingField.
        ImageInText: The question holds an image, or what the upstream would take for one.
    """
    fields = _parse_fields(kind.fields, {**request.query_params, **sent})
    most = pipeline.settings.max_answer_tokens
    if fields.max_tokens is not None and fields.max_tokens > most:
        msg = f"max_tokens is at most {most}."
        raise InvalidField(msg, "max_tokens")
    reads = pipeline.settings.upstream_reads_text_images
    found = find_text_image(kind.question_of(fields), reads)
    if found is None:
        return fields
    context: RequestContext = request.state.context
    if context.policy.mode is not Mode.ENFORCE:
        findings = Findings({ImageInText.code: 1}, [kind.question_field])
        pipeline.note_findings(context, findings)
        return fields
    msg = f"{kind.question_field} holds {found}. One image is taken: the field image."
    raise ImageInText(msg, kind.question_field)


def _describe(
    template: Template | None, context: RequestContext, image: Shielded
) -> dict[str, Any]:
    """What goes beside the answer, once that is there."""
    disclose = context.policy.disclose
    defense = describe_defense(
        image.engine,
        template,
        context.policy,
        bypassed=image.bypassed,
        purified=image.purification,
    )
    context.timings.begin_response()
    return {
        "purified_image": None if image.purified is None else "",
        "defense": defense.model_dump(),
        "timings_ms": context.timings.milliseconds() if disclose is Disclosure.FULL else None,
    }


def _parse_fields(model: type[FieldsT], fields: dict[str, Any]) -> FieldsT:
    """Validates the fields of a request.

    Raises:
        MissingField: A required field is absent.
        InvalidField: A field is unknown, or its value is not allowed.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "missing":
            msg = f"The field {name} is missing."
            raise MissingField(msg, name) from error
        if first["type"] == "extra_forbidden":
            msg = "There is no such field."
            raise InvalidField(msg, name) from error
        msg = f"{name}: {first['msg']}."
        raise InvalidField(msg, name) from error
