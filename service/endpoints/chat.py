"""POST /v1/chat/completions: any conversation, with every image in it purified on the way."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from codefend.models.prompts.templates import Task, Template
from codefend.service.admit.visit import Visit
from codefend.service.decode.chat import Chat, ChatImage
from codefend.service.endpoints.documentation import chat_body, chat_responses
from codefend.service.endpoints.pictures import (
    Pictures,
    note_findings,
    pass_picture,
    shield_picture,
)
from codefend.service.errors import (
    AnimatedImage,
    ImageFlagged,
    ImageTooLarge,
    InvalidImage,
    UnsupportedMedia,
)
from codefend.service.forward.sse import splice_answer
from codefend.service.guard import Guard
from codefend.service.policy import Disclosure, Mode
from codefend.service.respond.chat_report import ImageReport, describe_chat
from codefend.service.respond.defense import describe_defense
from codefend.service.respond.patience import answer_in_time
from codefend.service.respond.stream import stream_chat
from codefend.service.schemas import Defense
from codefend.service.stages import Upload
from codefend.service.together import run_together

__all__ = ["build_chat"]


def build_chat(guard: Guard) -> APIRouter:
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
        visit: Visit = request.state.visit
        content_type = request.headers.get("content-type", "").partition(";")[0]
        if content_type.strip().lower() != "application/json":
            msg = "Send application/json."
            raise UnsupportedMedia(msg, "content-type")
        body = await guard.read(visit, request)
        guard.enter_model(visit)
        return await answer_in_time(request, _answer(guard, visit, body), visit.deadline_s)

    return router


async def _answer(guard: Guard, visit: Visit, body: bytes) -> Response:
    template = guard.templates[Task.CHAT]
    chat = await guard.open_chat(visit, body, template)
    note_findings(guard, visit, chat.findings)
    shielded = await (_pass_on if guard.is_off else _shield_all)(guard, visit, chat, template)
    urls = [url for url, _ in shielded]
    reports = [report for _, report in shielded]

    def describe() -> bytes:
        is_full = visit.policy.disclose is Disclosure.FULL
        timings_ms = visit.timings.milliseconds() if is_full else None
        return describe_chat(reports, timings_ms, with_images=chat.return_image)

    if chat.stream:
        return stream_chat(visit, await guard.relay_stream(visit, chat, urls), describe)
    answer = await guard.relay(visit, chat, urls)
    visit.timings.begin_response()
    return Response(splice_answer(answer, describe()), media_type="application/json")


async def _shield_all(
    guard: Guard, visit: Visit, chat: Chat, template: Template
) -> list[tuple[str, ImageReport]]:
    """Purifies all images; returns the URLs that the model gets, and what to say of each."""
    uploads: dict[str, Upload] = {}
    try:
        await _decode(guard, visit, chat, uploads)
        return await run_together(
            _shield(guard, visit, chat, template, image, uploads.get(image.param))
            for image in chat.images
        )
    finally:
        for upload in uploads.values():
            upload.release()


async def _pass_on(
    guard: Guard, visit: Visit, chat: Chat, template: Template
) -> list[tuple[str, ImageReport]]:
    """The same where purification is off: the model gets the images as they were sent."""
    return [await _pass(guard, visit, chat, template, image, Mode.OFF) for image in chat.images]


async def _pass(
    guard: Guard, visit: Visit, chat: Chat, template: Template, image: ChatImage, reason: Mode
) -> tuple[str, ImageReport]:
    """Passes one image on as it was sent; returns its URL, and what to say of it."""
    pictures = await pass_picture(guard, visit, image, reason)
    defense = _describe(guard, visit, template if chat.used_template else None, pictures)
    return pictures.forwarded, ImageReport(image.param, None, None, defense, None)


async def _decode(guard: Guard, visit: Visit, chat: Chat, uploads: dict[str, Upload]) -> None:
    """Decodes all images before any is purified: what is refused costs no purification.

    Args:
        guard: Leads through the stages.
        visit: The request.
        chat: Whose images they are.
        uploads: Filled, by the images' places; the caller releases their pixels, come what may.
            In shadow mode one that cannot be decoded is left out: the model gets it as it was sent.
    """
    # A conversation takes no more decoders than there are: others wait for them too.
    decoders = asyncio.Semaphore(guard.settings.decode_workers)
    num_pixels = 0

    async def decode(image: ChatImage) -> None:
        nonlocal num_pixels
        async with decoders:
            try:
                upload = await guard.decode_image(visit, image)
            except (InvalidImage, AnimatedImage):
                if visit.policy.mode is Mode.SHADOW:
                    return
                raise
        uploads[image.param] = upload
        num_pixels += upload.height * upload.width
        if num_pixels > guard.settings.max_request_pixels:
            msg = (
                f"The images have more than {guard.settings.max_request_pixels} pixels together; "
                "send fewer, or smaller ones."
            )
            raise ImageTooLarge(msg, image.param)

    await run_together(decode(image) for image in chat.images)


async def _shield(
    guard: Guard,
    visit: Visit,
    chat: Chat,
    template: Template,
    image: ChatImage,
    upload: Upload | None,
) -> tuple[str, ImageReport]:
    """Purifies one image; returns the URL that the model gets, and what to say of it."""
    if upload is None:
        return await _pass(guard, visit, chat, template, image, Mode.SHADOW)
    try:
        pictures = await shield_picture(guard, visit, upload, is_shown=chat.return_image)
    except ImageFlagged as refusal:
        raise ImageFlagged(param=image.param) from refusal
    defense = _describe(guard, visit, template if chat.used_template else None, pictures)
    report = ImageReport(image.param, upload.width, upload.height, defense, pictures.purified)
    return pictures.forwarded, report


def _describe(guard: Guard, visit: Visit, template: Template | None, pictures: Pictures) -> Defense:
    return describe_defense(
        guard.engine_facts,
        template,
        visit.policy.disclose,
        bypassed=pictures.bypassed,
        purified=pictures.purification,
    )
