"""OpenAI's chat completions, of which the embedded model can do the text and the images."""

import time
import uuid
from collections.abc import Iterator
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
from codefend.service.protocols.chat import CHAT_COMPLETIONS

__all__ = ["ChatDialect"]


class _UrlObject(BaseModel):
    url: str


class _Part(BaseModel):
    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: _UrlObject | str | None = None


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part | str] | None = None


class _StreamOptions(BaseModel):
    include_usage: bool | None = False


def _is_text(value: Any) -> bool:
    return not value or (isinstance(value, dict) and value.get("type") == "text")


class _ChatRequest(BaseModel):
    """The fields that are heeded, and those that would have to be; it ignores the others."""

    messages: list[_Message] = Field(min_length=1)
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(0.0, ge=0, le=2)
    tools: Annotated[Any, unserved("calls no tools")] = None
    functions: Annotated[Any, unserved("calls no functions")] = None
    response_format: Annotated[Any, unserved("answers in plain text alone", _is_text)] = None
    logprobs: Annotated[Any, unserved("tells no probabilities")] = None
    top_logprobs: Annotated[Any, unserved("tells no probabilities")] = None
    modalities: Annotated[
        Any, unserved("answers in plain text alone", lambda value: value in (None, [], ["text"]))
    ] = None


class ChatDialect(Dialect):
    """`POST /v1/chat/completions`."""

    protocol = CHAT_COMPLETIONS

    def open(self, body: bytes, model: str) -> Exchange:
        """Reads a request; as in `Dialect`."""
        return _Completion(read_fields(_ChatRequest, body), model)


class _Completion(Exchange):
    def __init__(self, request: _ChatRequest, model: str) -> None:
        self.request = GenerationRequest(
            turns=[Turn(message.role, _parts(message)) for message in request.messages],
            max_tokens=(
                request.max_completion_tokens or request.max_tokens or DEFAULT_ANSWER_TOKENS
            ),
            temperature=request.temperature or 0.0,
            is_streamed=bool(request.stream),
        )
        self._tells_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._common = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, generation: Generation) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": _reason(generation),
        }
        fields = {"object": "chat.completion", "choices": [choice], "usage": _usage(generation)}
        return self._common | fields

    def begin(self) -> Iterator[str]:
        yield self._chunk([_choice({"role": "assistant", "content": ""})])

    def piece(self, text: str) -> str:
        return self._chunk([_choice({"content": text})])

    def end(self, _: str, generation: Generation) -> Iterator[str]:
        yield self._chunk([_choice({}, _reason(generation))])
        if self._tells_usage:
            yield self._chunk([], usage=_usage(generation))
        yield "data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        fields = {"object": "chat.completion.chunk", "choices": choices, **more}
        return self.event(self._common | fields)


def _parts(message: _Message) -> list[str | ImageUrl]:
    content = message.content or []
    return [_part(part) for part in ([content] if isinstance(content, str) else content)]


def _part(part: _Part | str) -> str | ImageUrl:
    if isinstance(part, str):
        return part
    if part.type == "image_url" and part.image_url is not None:
        return ImageUrl(part.image_url if isinstance(part.image_url, str) else part.image_url.url)
    return part.text or part.refusal or ""


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _reason(generation: Generation) -> str:
    return "length" if generation.is_cut else "stop"


def _usage(generation: Generation) -> dict[str, int]:
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }
