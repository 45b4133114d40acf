"""The HTTP contract: fields that come in and bodies that go out; OpenAPI is made of these."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codefend.models.codec import ImageFormat
from codefend.service.errors import InvalidField, MissingField

__all__ = [
    "AskFields",
    "CaptionFields",
    "CaptionResponse",
    "ChatResponse",
    "Defense",
    "ErrorResponse",
    "NamedVersion",
    "PurifyFields",
    "PurifyResponse",
    "VqaFields",
    "VqaResponse",
    "parse_fields",
]

MAX_QUESTION_CHARACTERS = 4000

FieldsT = TypeVar("FieldsT", bound=BaseModel)

_Question = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)]


class _Fields(BaseModel):
    """Fields beside the image; an unknown one is refused, because it would be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PurifyFields(_Fields):
    """What /v1/purify takes beside the image."""

    output_format: ImageFormat = Field(
        ImageFormat.PNG, description="PNG and WebP keep every pixel; JPEG has quality 95."
    )


class AskFields(_Fields):
    """What every question to the model takes."""

    model: str | None = Field(None, max_length=256, description="Model of the upstream.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: the likeliest words.")
    stream: bool = Field(False, description="Answer as server-sent events.")


class CaptionFields(AskFields):
    """What /v1/caption takes beside the image."""

    prompt: _Question | None = Field(None, description="Asked instead of the usual request.")


class VqaFields(AskFields):
    """What /v1/vqa takes beside the image."""

    question: _Question = Field(description="The question about the image.")


class NamedVersion(BaseModel):
    """Something that has a name and a version."""

    name: str
    version: str


class Defense(BaseModel):
    """What the defence did; with CODEFEND_DISCLOSE=minimal, names and nothing measured."""

    purifier: NamedVersion | None = Field(description="null where purification is off.")
    steps: int | None = Field(description="Denoising steps; null under minimal disclosure.")
    noise_level: float | None = Field(description="t*; null under minimal disclosure.")
    prompt_template: NamedVersion | None = Field(
        description="null where no question was put to a model."
    )
    suspicion: float | None = Field(
        None,
        description="0 to 1: the share of clean images that looked less attacked. null without a "
        "detector, and under minimal disclosure.",
    )
    flagged: bool | None = Field(None, description="Suspicion above 0.99. null where suspicion is.")
    bypassed: bool = Field(description="The model saw the image unpurified.")
    cached: bool = Field(description="The purified image is a replay for the same bytes.")


class PurifyResponse(BaseModel):
    """Answer of /v1/purify."""

    purified_image: str = Field(description="A data: URL.")
    width: int
    height: int
    defense: Defense
    timings_ms: dict[str, float] | None = Field(
        description="Milliseconds by stage, and total; null under minimal disclosure."
    )


class _AnswerResponse(BaseModel):
    purified_image: str | None = Field(
        description="A data: URL; null if purification is off, or failed and may be done without."
    )
    defense: Defense
    usage: dict[str, Any] | None = Field(description="Tokens, as the upstream counts them.")
    timings_ms: dict[str, float] | None = Field(
        description="Milliseconds by stage, and total; null under minimal disclosure."
    )


class CaptionResponse(_AnswerResponse):
    """Answer of /v1/caption."""

    caption: str


class VqaResponse(_AnswerResponse):
    """Answer of /v1/vqa."""

    answer: str


class _ChatImage(BaseModel):
    param: str = Field(description="The image's place in the request.")
    width: int | None = Field(description="null where purification is off: nothing is decoded.")
    height: int | None = Field(description="null where width is.")
    defense: Defense
    purified_image: str | None = Field(
        None, description="A data: URL; only where codefend.return_image asks for it."
    )


class _ChatReport(BaseModel):
    images: list[_ChatImage] = Field(description="In the order of the conversation.")
    timings_ms: dict[str, float] | None = Field(
        description="Milliseconds by stage, and total; null under minimal disclosure."
    )


class ChatResponse(BaseModel):
    """Answer of /v1/chat/completions: the upstream's, and one more field."""

    model_config = ConfigDict(extra="allow")

    choices: list[dict[str, Any]]
    codefend: _ChatReport


class _ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """Every error, in OpenAI's shape."""

    error: _ErrorDetail


def parse_fields(model: type[FieldsT], fields: dict[str, Any]) -> FieldsT:
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
