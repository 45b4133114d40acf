"""What OpenAPI says about bodies, which the endpoints read themselves to keep them off the loop."""

from typing import Any

from pydantic import BaseModel

from codefend.service.schemas import ChatResponse, ErrorResponse

__all__ = ["chat_body", "chat_responses", "error_responses", "request_body", "upstream_errors"]

_IMAGE = {
    "type": "string",
    "description": "A data: URL or bare base64 of a JPEG, PNG or WebP. Remote URLs are refused.",
}
_FILE = {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP file."}
_RAW_TYPES = ("image/jpeg", "image/png", "image/webp")


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
    content |= {name: {"schema": _FILE} for name in _RAW_TYPES}
    return {"requestBody": {"required": True, "content": content}}


def chat_body() -> dict[str, Any]:
    """Describes OpenAI's chat request, as far as the service understands it."""
    part = {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "image_url", "refusal"]},
            "text": {"type": "string"},
            "image_url": {
                "type": "object",
                "required": ["url"],
                "properties": {"url": _IMAGE, "detail": {"type": "string"}},
            },
        },
    }
    message = {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string"},
            "content": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"anyOf": [{"type": "string"}, part]}},
                    {"type": "null"},
                ]
            },
        },
        "additionalProperties": True,
    }
    own = _object({"return_image": {"type": "boolean", "default": False}}, [])
    schema = {
        "type": "object",
        "required": ["messages"],
        "properties": {
            "messages": {"type": "array", "items": message, "minItems": 1},
            "model": {"type": "string", "description": "The upstream's; it has a default."},
            "stream": {"type": "boolean", "default": False},
            "codefend": own | {"description": "Meant for this service, and not passed on."},
        },
        "additionalProperties": True,
        "description": "OpenAI's request; fields that are not known are refused by their names.",
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def chat_responses() -> dict[int | str, dict[str, Any]]:
    """What /v1/chat/completions may answer with."""
    description = "The upstream's answer, or its server-sent events, and what the defence did."
    streamed: dict[str, Any] = {"text/event-stream": {}}  # events have no schema in OpenAPI 3.1
    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": ChatResponse, "description": description, "content": streamed},
        404: {"model": ErrorResponse, "description": "The upstream has no such model."},
        422: {"model": ErrorResponse, "description": "The upstream cannot process the request."},
    }
    return answers | error_responses() | upstream_errors()


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
        415: "Neither JSON, multipart nor an image; or no JPEG, PNG or WebP.",
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
