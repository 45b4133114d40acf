"""Anthropic's messages, of which the embedded model can do the text and the images."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from codefend.service.mllm.dialects.base import (
    DEFAULT_ANSWER_TOKENS,
    Dialect,
    Exchange,
    GenerationRequest,
    read_fields,
    unserved,
)
from codefend.service.mllm.generation import Generation, ImageUrl, Turn
from codefend.service.protocols.messages import COUNT_TOKENS, MESSAGES

__all__ = ["CountTokensDialect", "MessagesDialect"]


class _Source(BaseModel):
    type: Literal["base64", "text", "content"]
    media_type: str | None = None
    data: str | None = None
    content: "str | list[_Block]" = []


class _Block(BaseModel):
    type: Literal[
        "text",
        "image",
        "document",
        "search_result",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
    ]
    text: str | None = None
    title: str | None = None
    source: _Source | str | None = None
    content: "str | list[_Block] | None" = None


class _Turn(BaseModel):
    role: str
    content: str | list[_Block]


def _is_off(thinking: Any) -> bool:
    """Whether the model may do without."""
    return not thinking or (
        isinstance(thinking, dict) and thinking.get("type") in {"disabled", "adaptive"}
    )


def _has_no_format(config: Any) -> bool:
    return not (isinstance(config, dict) and config.get("format"))


class _MessagesRequest(BaseModel):
    """The fields that are heeded, and those that would have to be; it ignores the others."""

    messages: list[_Turn] = Field(min_length=1)
    system: str | list[_Block] = []
    stream: bool | None = False
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(0.0, ge=0, le=2)
    tools: Annotated[Any, unserved("calls no tools")] = None
    thinking: Annotated[Any, unserved("does not think aloud", _is_off)] = None
    stop_sequences: Annotated[Any, unserved("stops at no sequences of yours")] = None
    output_format: Annotated[Any, unserved("answers in plain text alone")] = None
    output_config: Annotated[Any, unserved("answers in plain text alone", _has_no_format)] = None


class MessagesDialect(Dialect):
    """`POST /v1/messages`."""

    protocol = MESSAGES

    def open(self, body: bytes, model: str) -> Exchange:
        """Reads a request; as in `Dialect`."""
        return _Message(read_fields(_MessagesRequest, body), model)


class CountTokensDialect(Dialect):
    """`POST /v1/messages/count_tokens`."""

    protocol = COUNT_TOKENS

    def open(self, body: bytes, model: str) -> Exchange:
        """Reads a request; as in `Dialect`."""
        return _Count(read_fields(_MessagesRequest, body), model)


class _Message(Exchange):
    def __init__(self, request: _MessagesRequest, model: str) -> None:
        system = [Turn("system", _parts(request.system))] if request.system else []
        self.request = GenerationRequest(
            turns=system + [_turn(message) for message in request.messages],
            max_tokens=request.max_tokens or DEFAULT_ANSWER_TOKENS,
            temperature=request.temperature or 0.0,
            is_streamed=bool(request.stream),
        )
        self._common = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }

    def whole(self, text: str, generation: Generation) -> dict[str, Any]:
        said = [{"type": "text", "text": text}]
        return self._common | {"content": said, **_reason(generation), "usage": _usage(generation)}

    def begin(self) -> Iterator[str]:
        # How long the question is, is told at the end.
        unknown: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        message = self._common | unknown | {"usage": {"input_tokens": 0, "output_tokens": 0}}
        yield _event("message_start", message=message)
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})

    def piece(self, text: str) -> str:
        return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def end(self, _: str, generation: Generation) -> Iterator[str]:
        yield _event("content_block_stop", index=0)
        yield _event("message_delta", delta=_reason(generation), usage=_usage(generation))
        yield _event("message_stop")


class _Count(_Message):
    """No answer, but how long the question is."""

    def __init__(self, request: _MessagesRequest, model: str) -> None:
        super().__init__(request, model)
        self.request = replace(self.request, is_streamed=False, is_counted_only=True)

    def whole(self, _: str, generation: Generation) -> dict[str, Any]:
        return {"input_tokens": generation.prompt_tokens}


def _event(kind: str, **fields: Any) -> str:
    return Exchange.event({"type": kind} | fields, kind)


def _turn(message: _Turn) -> Turn:
    # Clients have roles of their own for what they say beside the user.
    role = message.role if message.role in {"assistant", "system"} else "user"
    return Turn(role, _parts(message.content))


def _parts(content: str | list[_Block] | None) -> list[str | ImageUrl]:
    """Texts and images, those in tools' results and documents among them; not what was thought."""
    if isinstance(content, str):
        return [content]
    return [part for block in content or [] for part in _parts_of(block)]


def _parts_of(block: _Block) -> list[str | ImageUrl]:
    source = block.source
    title = [block.title] if block.title else []
    if block.type == "text":
        return [block.text or ""]
    if block.type == "image" and isinstance(source, _Source):
        return [ImageUrl(f"data:{source.media_type};base64,{source.data}")]
    if block.type == "document" and isinstance(source, _Source):
        return [*title, *([source.data] if source.data else _parts(source.content))]
    if block.type in {"search_result", "tool_result"}:
        return [*title, *_parts(block.content)]
    return []


def _reason(generation: Generation) -> dict[str, Any]:
    reason = "max_tokens" if generation.is_cut else "end_turn"
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(generation: Generation) -> dict[str, int]:
    return {
        "input_tokens": generation.prompt_tokens,
        "output_tokens": generation.completion_tokens,
    }
