"""What OpenAPI says about bodies, which the endpoints read themselves to keep them off the loop."""

from typing import Any

from pydantic import BaseModel

from service.schemas import ErrorResponse

__all__ = ["error_responses", "request_body"]

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


def error_responses() -> dict[int | str, dict[str, Any]]:
    """The errors that every costly endpoint may answer with."""
    meanings = {
        400: "The body, a field or the image is at fault.",
        401: "The API key is missing or wrong.",
        413: "The body or the image is too large.",
        415: "Neither JSON, multipart nor an image; or no JPEG, PNG or WebP.",
        429: "At capacity: Retry-After says when to come back.",
        503: "Not ready, shutting down, or the image could not be purified.",
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
