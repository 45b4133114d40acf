"""POST /v1/purify: an image comes in, the purified image goes out."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from codefend.models.codec import ImageFormat, data_url
from codefend.service.admit.visit import Visit
from codefend.service.endpoints.documentation import error_responses, request_body
from codefend.service.errors import PurificationOff
from codefend.service.guard import Guard
from codefend.service.policy import Disclosure
from codefend.service.processes.pixels import Picture
from codefend.service.respond.defense import describe_defense
from codefend.service.respond.patience import answer_in_time
from codefend.service.schemas import PurifyFields, PurifyResponse, parse_fields

__all__ = ["build_purify"]

PATH = "/v1/purify"


def build_purify(guard: Guard) -> APIRouter:
    """Builds /v1/purify."""
    router = APIRouter(tags=["images"])

    @router.post(
        PATH,
        response_model=PurifyResponse,
        responses=error_responses(),
        openapi_extra=request_body(PurifyFields),
    )
    async def purify(request: Request) -> Response:
        """Purifies an image; with `Accept: image/*` the answer is the image itself.

        An image that cannot be purified is always answered with 503: this endpoint never returns
        an unpurified image under the name of a purified one.
        """
        if guard.is_off:
            raise PurificationOff
        visit: Visit = request.state.visit
        body = await guard.read(visit, request)
        work = _answer(guard, visit, request, body)
        return await answer_in_time(request, work, visit.deadline_s)

    return router


async def _answer(guard: Guard, visit: Visit, request: Request, body: bytes) -> Response:
    upload = await guard.decode(visit, request.headers.get("content-type", ""), body)
    try:
        fields = parse_fields(PurifyFields, {**request.query_params, **upload.fields})
        raw_format = _raw_format(request.headers.get("accept", ""), fields.output_format)
        image_format = raw_format or fields.output_format
        purified = await guard.purify(visit, upload)
        encoded = await guard.encode(visit, upload, Picture.PURIFIED, image_format)
    finally:
        upload.release()
    visit.timings.begin_response()
    if raw_format is not None:
        return Response(encoded, media_type=raw_format.media_type)
    disclose = visit.policy.disclose
    engine = guard.engine_facts
    answer = PurifyResponse(
        purified_image=data_url(encoded, image_format),
        width=upload.width,
        height=upload.height,
        defense=describe_defense(engine, None, disclose, bypassed=False, purified=purified),
        timings_ms=visit.timings.milliseconds() if disclose is Disclosure.FULL else None,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


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
