"""OpenAI's responses: `POST /v1/responses`; its fields are in `responses_table.py`."""

import json
from typing import Any

from codefend.service.errors import CodefendError
from codefend.service.protocols.base import (
    EventReader,
    EventRole,
    Protocol,
    add_text,
    read_event,
    read_object,
)
from codefend.service.protocols.responses_table import RESPONSES_TABLE

__all__ = ["PROTOCOLS", "RESPONSES"]

_ENDS = frozenset({"response.completed", "response.incomplete", "response.cancelled"})
_FAILURES = frozenset({"response.failed", "error"})
_SIGNS_OF_LIFE = frozenset({"keepalive", "ping"})


def _read_response(document: object) -> dict[str, Any]:
    """Takes a response object; ValueError for what is none, or a failed one."""
    if not (isinstance(document, dict) and isinstance(document.get("output"), list)):
        msg = "no response"
        raise ValueError(msg)
    if document.get("error") or document.get("status") == "failed":
        msg = "a failed response"
        raise ValueError(msg)
    return document


def _read_answer(content: bytes) -> dict[str, Any]:
    return _read_response(read_object(content))


def _ids_of(answer: Any) -> list[str]:
    """The ids that an answer hands out: its own, and those of its items."""
    items = [entry for entry in answer["output"] if isinstance(entry, dict)]
    return [entry["id"] for entry in (answer, *items) if isinstance(entry.get("id"), str)]


class _Events(EventReader):
    """Every event has a type; the last one, which may be followed by `[DONE]`, the whole answer."""

    def __init__(self) -> None:
        super().__init__()
        self._is_whole = False

    def read(self, payload: bytes) -> EventRole:
        if payload == b"[DONE]":
            return EventRole.DONE
        event = read_event(payload)
        kind = event.get("type")
        if kind in _FAILURES or event.get("error"):
            return EventRole.ERROR
        if kind in _SIGNS_OF_LIFE:
            return EventRole.ASIDE
        if not isinstance(kind, str) or self._is_whole:
            msg = "no event"
            raise ValueError(msg)
        if kind in _ENDS:
            self._is_whole = True
            self.ids += _ids_of(_read_response(event.get("response")))
            return EventRole.LAST
        if kind == "response.output_item.done":
            # Some upstreams number their items anew in the last event.
            self.ids += _ids_of({"output": [event.get("item")]})
        return EventRole.PART


def _instruct(document: dict[str, Any], text: str) -> None:
    add_text(document, "instructions", text, {"role": "developer", "content": text})


def _error_event(error: CodefendError, _: str) -> bytes:
    """An `error` event; OpenAI's own clients look for an object, others for what is beside it."""
    body = error.body()
    told = {name: body["error"][name] for name in ("code", "message", "param")}
    event = {"type": "error", "sequence_number": 0, **told, **body}
    return f"event: error\ndata: {json.dumps(event)}\n\n".encode()


_PART_SCHEMA = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["input_text", "input_image", "output_text", "refusal"]},
        "text": {"type": "string"},
        "image_url": {
            "type": "string",
            "description": "A data: URL or bare base64 of an image.",
        },
    },
}
_ITEM_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "description": "message, where there is none."},
        "role": {"type": "string"},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART_SCHEMA}]},
    },
    "additionalProperties": True,
}

RESPONSES = Protocol(
    name="responses",
    path="/v1/responses",
    description=(
        "OpenAI's responses: every image is purified, text goes to the model as it is.\n\n"
        "Tools that the upstream runs, files and stored prompts are refused, and so are fields "
        "that are not known. An id of an earlier answer, or of an item of it, passes where this "
        "service gave it to the same key. The answer is the upstream's, with a `codefend` object "
        "beside its fields: in `response.completed` when it streams."
    ),
    table=RESPONSES_TABLE,
    conversation="input",
    conversation_schema={
        "anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM_SCHEMA, "minItems": 1}]
    },
    image_part='{"type": "input_image", "image_url": "data:image/png;base64,..."}',
    instruct=_instruct,
    text_types=("input_text", "text"),
    answer_fields={"output": list[dict[str, Any]]},
    read_answer=_read_answer,
    make_reader=_Events,
    token_limits=("max_output_tokens",),
    report_in="response",
    ids_of=_ids_of,
    error_event=_error_event,
    not_below=(
        "Stored responses are not served: only POST /v1/responses is. Keep the answer that you "
        "got; previous_response_id goes on from it."
    ),
)
PROTOCOLS = (RESPONSES,)
