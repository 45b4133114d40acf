"""The HTTP contract: fields that come in, bodies that go out, and what OpenAPI says of both.

The endpoints read bodies themselves, to keep them off the event loop: what those may hold is
described here, too.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from codefend.models.codec import ImageFormat
from codefend.models.purifier.strengths import Strength
from codefend.service.formats.table import FORMAT_LABELS, FORMATS
from codefend.service.protocols.base import Protocol

__all__ = [
    "AskFields",
    "CaptionFields",
    "CaptionResponse",
    "ConversationResponse",
    "Defense",
    "ErrorResponse",
    "GuardrailFields",
    "GuardrailResponse",
    "NamedVersion",
    "PurifyFields",
    "PurifyResponse",
    "VqaFields",
    "VqaResponse",
    "conversation_body",
    "conversation_responses",
    "error_responses",
    "request_body",
    "upstream_errors",
]

MAX_QUESTION_CHARACTERS = 4000
_IMAGE = {
    "type": "string",
    "description": f"A data: URL or bare base64 of a {FORMAT_LABELS}. Remote URLs are refused.",
}
_FILE = {"type": "string", "format": "binary", "description": f"A {FORMAT_LABELS} file."}

_Question = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)]


class _Fields(BaseModel):
    """Fields beside the image; an unknown one is refused, because it would be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PurifyFields(_Fields):
    """What /v1/purify takes beside the image."""

    output_format: ImageFormat | None = Field(
        None,
        description="As the model gets it, where none is named; PNG and WebP keep every pixel.",
    )


class GuardrailFields(_Fields):
    """What /v1/guardrail takes."""

    images: list[str] = Field(description="data: URLs or bare base64. Remote URLs are refused.")


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
    strength: Strength | None = Field(
        description="How strongly the image is purified; null under minimal disclosure."
    )
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


class GuardrailResponse(BaseModel):
    """Answer of /v1/guardrail."""

    verdict: Literal["modify", "deny", "allow"] = Field(
        description="modify: the model may see images, and not what was sent. allow: it may see "
        "what was sent. deny: it may see none."
    )
    images: list[str] = Field(
        description="data: URLs of what the model may see, in the order of the request; none "
        "where the verdict is deny."
    )
    suspicion: list[float | None] | None = Field(
        description="0 to 1 for each image: the share of clean images that looked less attacked. "
        "null under minimal disclosure, and where the verdict is deny."
    )
    flagged: list[bool | None] | None = Field(
        description="Suspicion above 0.99, for each image. null where suspicion is."
    )
    reason: str | None = Field(None, description="Why the verdict is deny.")


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


class ConversationResponse(BaseModel):
    """Answer to a conversation: the upstream's, and one more field."""

    model_config = ConfigDict(extra="allow")

    codefend: _ChatReport


class _ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """Every error, in OpenAI's shape."""

    error: _ErrorDetail


_OWN_SHAPE = "Every error, in the shape of this protocol, with our code and param."


def request_body(fields: type[BaseModel]) -> dict[str, Any]:
    """Describes a body that holds an image beside some fields, in all forms that are taken.

    A raw image takes the fields from the query.
    """
    schema = fields.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    properties = {name: _inline(value, definitions) for name, value in schema["properties"].items()}
    required = schema.get("required", [])
    as_json = _object({"image": _IMAGE} | properties, ["image", *required])
    as_form = _object({"file": _FILE} | properties, ["file", *required])
    content: dict[str, Any] = {
        "application/json": {"schema": as_json},
        "multipart/form-data": {"schema": as_form},
    }
    content |= {name: {"schema": _FILE} for name in (row.media_type for row in FORMATS.values())}
    return {"requestBody": {"required": True, "content": content}}


def conversation_body(protocol: Protocol) -> dict[str, Any]:
    """Describes a protocol's request, as far as the service understands it."""
    own = _object({"return_image": {"type": "boolean", "default": False}}, [])
    properties = {
        protocol.conversation: protocol.conversation_schema,
        "model": {"type": "string", "description": "The upstream's; it has a default."},
        "codefend": own | {"description": "Meant for this service, and not passed on."},
    }
    if protocol.make_reader is not None:
        properties["stream"] = {"type": "boolean", "default": False}
    schema = {
        "type": "object",
        "required": [protocol.conversation],
        "properties": properties,
        "additionalProperties": True,
        "description": "Fields that are not known are refused by their names.",
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def conversation_responses(protocol: Protocol) -> dict[int | str, dict[str, Any]]:
    """What a protocol's path may answer with."""
    name = "".join(word.title() for word in protocol.name.split("_"))
    fields: dict[str, Any] = {key: (kind, ...) for key, kind in protocol.answer_fields.items()}
    model = create_model(f"{name}Response", __base__=ConversationResponse, **fields)
    description = "The upstream's answer, and what the defence did."
    # Events have no schema in OpenAPI 3.1.
    streamed: dict[str, Any] = {} if protocol.make_reader is None else {"text/event-stream": {}}
    errors: dict[int | str, dict[str, Any]] = {
        404: {"description": "The upstream has no such model, or path."},
        422: {"description": "The upstream cannot process the request."},
    }
    error = ErrorResponse
    if protocol.error_fields:
        more: dict[str, Any] = {key: (kind, ...) for key, kind in protocol.error_fields.items()}
        error = create_model(f"{name}Error", __base__=ErrorResponse, __doc__=_OWN_SHAPE, **more)
    errors |= error_responses() | upstream_errors()
    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": model, "description": description, "content": streamed}
    }
    return answers | {status: told | {"model": error} for status, told in errors.items()}


def upstream_errors() -> dict[int | str, dict[str, Any]]:
    """What becomes of an upstream that fails."""
    return {
        502: {
            "model": ErrorResponse,
            "description": "The model behind the service gave no answer.",
        }
    }


def error_responses() -> dict[int | str, dict[str, Any]]:
    """The errors that every costly endpoint may answer with."""
    meanings = {
        400: "The body, a field or the image is at fault.",
        401: "The API key is missing or wrong.",
        403: "The policy of the API key does not allow this path.",
        413: "The body or the image is too large.",
        415: f"Neither JSON, multipart nor an image; or no {FORMAT_LABELS}.",
        429: "At capacity: Retry-After says when to come back.",
        503: (
            "Not ready, shutting down, the image could not be purified, purification is off, "
            "or the model is failing."
        ),
        504: "The deadline passed.",
    }
    return {
        status: {"model": ErrorResponse, "description": text} for status, text in meanings.items()
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _inline(value: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = value.get("$ref")
    if reference is None:
        return value
    rest = {key: entry for key, entry in value.items() if key != "$ref"}
    return {**definitions[reference.rpartition("/")[2]], **rest}
