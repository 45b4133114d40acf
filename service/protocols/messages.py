"""Anthropic's messages: `POST /v1/messages`, and `/v1/messages/count_tokens`.

Sources: Anthropic's API reference and its Python client; vLLM's, SGLang's, Ollama's, llama.cpp's
and LiteLLM's servers of the same paths. What a request may hold stands in `messages_table.py`.
"""

import json
import re
from typing import Any, Literal

from codefend.service.errors import CodefendError
from codefend.service.protocols.base import (
    EventReader,
    EventRole,
    Protocol,
    add_text,
    read_event,
    read_object,
)
from codefend.service.protocols.fields import names
from codefend.service.protocols.messages_table import MESSAGES_TABLE

__all__ = ["COUNT_TOKENS", "MESSAGES", "PROTOCOLS", "read_message"]


def read_message(content: bytes) -> dict[str, Any]:
    """Reads a whole answer: a JSON object with a list of blocks.

    Raises:
        ValueError: It is none; or TypeError, RecursionError.
    """
    document = read_object(content)
    blocks = document.get("content")
    if not (isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks)):
        msg = "no message"
        raise ValueError(msg)
    return document


def _read_count(content: bytes) -> dict[str, Any]:
    document = read_object(content)
    count = document.get("input_tokens")
    if not isinstance(count, int) or isinstance(count, bool):
        msg = "no count"
        raise TypeError(msg)
    return document


# The member that events of a type must have, so that clients can read them.
_HAS = {
    "message_start": "message",
    "content_block_start": "content_block",
    "content_block_delta": "delta",
    "message_delta": "delta",
}


class _Events(EventReader):
    """The `message_delta` that says why the answer ends is held, and all that follows it.

    Its clients pass over events without a name, and its `message_stop` has been named before it is
    read: what the defence did can stand in an event of the upstream's alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_over = False

    def read(self, payload: bytes) -> EventRole:
        event = read_event(payload)
        kind = event["type"]
        if not isinstance(kind, str):
            msg = "no event"
            raise TypeError(msg)
        if kind == "error" or event.get("error"):
            return EventRole.ERROR
        if kind in _HAS and not isinstance(event.get(_HAS[kind]), dict):
            msg = f"{kind} without {_HAS[kind]}"
            raise ValueError(msg)
        if kind == "message_stop":
            return EventRole.DONE
        if kind == "message_delta":
            self._is_over = self._is_over or bool(event["delta"].get("stop_reason"))
            return EventRole.LAST if self._is_over else EventRole.MAY_BE_LAST
        return EventRole.ASIDE if self._is_over or kind == "ping" else EventRole.PART


# https://docs.anthropic.com/en/api/errors
_TYPE_OF_CODE = {"overloaded_error": "overloaded_error", "insufficient_quota": "billing_error"}
_TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _error_body(error: CodefendError, request_id: str) -> dict[str, Any]:
    """An error as Anthropic's clients read it, with our code and param beside."""
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _TYPE_OF_CODE.get(error.code) or _TYPE_OF_STATUS.get(error.status, usual)
    told = error.body()["error"] | {"type": kind}
    return {"type": "error", "error": told, "request_id": request_id}


def _error_event(error: CodefendError, request_id: str) -> bytes:
    return f"event: error\ndata: {json.dumps(_error_body(error, request_id))}\n\n".encode()


_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_BETA = re.compile(r"([a-z0-9-]+?)-([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8})")
# None of them lets the upstream fetch, open or run anything.
_BETAS = names(
    """adaptive-thinking advanced-tool-use cache-diagnosis claude-code compact computer-use
    context-1m context-management dev-full-thinking effort extended-cache-ttl fast-mode
    fine-grained-tool-streaming inline-tools interleaved-thinking max-tokens-3-5-sonnet
    mid-conversation-output-config mid-conversation-system-clear-at mid-conversation-tool-changes
    model-context-window-exceeded output-128k output-300k prompt-caching prompt-caching-scope
    redact-thinking search-results structured-outputs task-budgets thinking-binding-controls
    thinking-display-updates thinking-token-count token-counting token-efficient-tools
    tool-examples tool-search-tool"""
)


def _keep_version(value: str) -> str:
    return value if _VERSION.fullmatch(value) else ""


def _keep_betas(value: str) -> str:
    """Those of a list of names that are known to bring in no pictures."""
    listed = [name.strip() for name in value.split(",")]
    parts = [(name, _BETA.fullmatch(name)) for name in listed]
    return ",".join(name for name, match in parts if match and match[1] in _BETAS)


_SOURCE_SCHEMA = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["base64", "url"]},
        "media_type": {"type": "string"},
        "data": {"type": "string", "description": "The image in base64."},
        "url": {"type": "string", "description": "A data: URL; others are refused."},
    },
}
_BLOCK_SCHEMA = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"type": "string", "examples": ["text", "image", "tool_use", "tool_result"]},
        "text": {"type": "string"},
        "source": _SOURCE_SCHEMA,
    },
    "additionalProperties": True,
}
_MESSAGE_SCHEMA = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"type": "string"},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _BLOCK_SCHEMA}]},
    },
    "additionalProperties": True,
}


def _instruct(document: dict[str, Any], text: str) -> None:
    add_text(document, "system", text, {"type": "text", "text": text})


_COMMON: dict[str, Any] = {
    "table": MESSAGES_TABLE,
    "conversation": "messages",
    "conversation_schema": {"type": "array", "items": _MESSAGE_SCHEMA, "minItems": 1},
    "image_part": (
        '{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "..."}}'
    ),
    "instruct": _instruct,
    "error_fields": {"type": Literal["error"], "request_id": str},
    "error_body": _error_body,
    "error_event": _error_event,
    "key_header": "x-api-key",
    "passed_headers": {"anthropic-version": _keep_version, "anthropic-beta": _keep_betas},
    "default_headers": {"anthropic-version": "2023-06-01"},
}
MESSAGES = Protocol(
    name="messages",
    path="/v1/messages",
    description=(
        "Anthropic's messages: every image is purified, those in tools' results and in documents "
        "too; text goes to the model as it is.\n\n"
        "What is neither text nor an image that can be purified is refused, and so are fields "
        "that are not known. The answer is the upstream's, with a `codefend` object beside its "
        "content: beside the last `message_delta`'s `delta` when it streams."
    ),
    answer_fields={"content": list[dict[str, Any]]},
    read_answer=read_message,
    make_reader=_Events,
    token_limits=("max_tokens",),
    token_shares=(("thinking", "budget_tokens"),),
    **_COMMON,
)
COUNT_TOKENS = Protocol(
    name="count_tokens",
    path="/v1/messages/count_tokens",
    description=(
        "How many tokens a request to /v1/messages would take. Its images are purified as there, "
        "and need not be purified again when that request comes soon."
    ),
    answer_fields={"input_tokens": int},
    read_answer=_read_count,
    make_reader=None,
    **_COMMON,
)
PROTOCOLS = (MESSAGES, COUNT_TOKENS)
