"""POST /v1/caption and /v1/vqa: the model behind the service sees the purified image only."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from codefend.models.prompts.templates import Task, Template
from codefend.service.admit.visit import Visit
from codefend.service.decode.fields import Findings
from codefend.service.decode.values import find_text_image
from codefend.service.endpoints.documentation import error_responses, request_body
from codefend.service.endpoints.pictures import (
    Pictures,
    note_findings,
    pass_picture,
    shield_picture,
)
from codefend.service.errors import ImageInText, InvalidField
from codefend.service.forward.completion import Completion
from codefend.service.guard import Guard
from codefend.service.policy import Disclosure, Mode
from codefend.service.respond.defense import describe_defense
from codefend.service.respond.patience import answer_in_time
from codefend.service.respond.stream import stream_answer
from codefend.service.schemas import (
    AskFields,
    CaptionFields,
    CaptionResponse,
    VqaFields,
    VqaResponse,
    parse_fields,
)

__all__ = ["build_ask"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells the two endpoints apart."""

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


def build_ask(guard: Guard) -> APIRouter:
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
        return await _handle(guard, _CAPTION, request)

    @router.post(
        "/v1/vqa",
        response_model=VqaResponse,
        responses=error_responses() | upstream_errors,
        openapi_extra=request_body(VqaFields),
    )
    async def vqa(request: Request) -> Response:
        """Purifies an image and asks the model a question about it."""
        return await _handle(guard, _VQA, request)

    return router


async def _handle(guard: Guard, kind: _Kind, request: Request) -> Response:
    visit: Visit = request.state.visit
    body = await guard.read(visit, request)
    guard.enter_model(visit)
    work = _answer(guard, kind, visit, request, body)
    return await answer_in_time(request, work, visit.deadline_s)


async def _answer(
    guard: Guard, kind: _Kind, visit: Visit, request: Request, body: bytes
) -> Response:
    look_at = _pass_on if guard.is_off else _shield
    fields, pictures = await look_at(guard, kind, visit, request, body)
    template = guard.templates[kind.task]
    completion = Completion(
        prompt=template.fill(kind.question_of(fields)),
        image_url=pictures.forwarded,
        model=fields.model,
        max_tokens=fields.max_tokens,
        temperature=fields.temperature,
    )
    if fields.stream:
        stream = await guard.forward_stream(visit, completion)
        return stream_answer(visit, stream, lambda: _describe(guard, template, visit, pictures))
    answer = await guard.forward(visit, completion)
    visit.timings.begin_response()
    description = _describe(guard, template, visit, pictures)
    filled = kind.response(**{kind.text_field: answer.text}, usage=answer.usage, **description)
    return Response(filled.model_dump_json(), media_type="application/json")


async def _shield(
    guard: Guard, kind: _Kind, visit: Visit, request: Request, body: bytes
) -> tuple[Any, Pictures]:
    upload = await guard.decode(visit, request.headers.get("content-type", ""), body)
    try:
        fields = _read_fields(guard, kind, request, upload.fields)
        _check_question(guard, kind, visit, fields)
        return fields, await shield_picture(guard, visit, upload)
    finally:
        upload.release()


async def _pass_on(
    guard: Guard, kind: _Kind, visit: Visit, request: Request, body: bytes
) -> tuple[Any, Pictures]:
    image, sent_fields = await guard.unwrap(visit, request.headers.get("content-type", ""), body)
    fields = _read_fields(guard, kind, request, sent_fields)
    _check_question(guard, kind, visit, fields)
    return fields, await pass_picture(guard, visit, image)


def _read_fields(guard: Guard, kind: _Kind, request: Request, sent: dict[str, Any]) -> Any:
    fields = parse_fields(kind.fields, {**request.query_params, **sent})
    _check_length(fields, guard.settings.max_answer_tokens)
    return fields


def _check_length(fields: AskFields, max_answer_tokens: int) -> None:
    if fields.max_tokens is not None and fields.max_tokens > max_answer_tokens:
        msg = f"max_tokens is at most {max_answer_tokens}."
        raise InvalidField(msg, "max_tokens")


def _check_question(guard: Guard, kind: _Kind, visit: Visit, fields: AskFields) -> None:
    """Refuses a question that holds an image, or what the upstream would take for one."""
    found = find_text_image(kind.question_of(fields), guard.settings.upstream_reads_text_images)
    if found is None:
        return
    if visit.policy.mode is not Mode.ENFORCE:
        note_findings(guard, visit, Findings({ImageInText.code: 1}, [kind.question_field]))
        return
    msg = f"{kind.question_field} holds {found}. One image is taken: the field image."
    raise ImageInText(msg, kind.question_field)


def _describe(guard: Guard, template: Template, visit: Visit, pictures: Pictures) -> dict[str, Any]:
    """What goes beside the answer."""
    disclose = visit.policy.disclose
    defense = describe_defense(
        guard.engine_facts,
        template,
        disclose,
        bypassed=pictures.bypassed,
        purified=pictures.purification,
    )
    return {
        "purified_image": pictures.purified,
        "defense": defense.model_dump(),
        "timings_ms": visit.timings.milliseconds() if disclose is Disclosure.FULL else None,
    }
