"""OpenAI's responses, of which the embedded model can do the text and the images.

What was said of late is remembered, so that `previous_response_id` and `item_reference` go on from
it; a restart forgets it.
"""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from cachetools import LRUCache
from pydantic import BaseModel, Field

from codefend.service.errors import InvalidField
from codefend.service.mllm.dialects.base import (
    DEFAULT_ANSWER_TOKENS,
    Dialect,
    Exchange,
    GenerationRequest,
    read_fields,
    unserved,
)
from codefend.service.mllm.generation import Generation, ImageUrl, Turn
from codefend.service.protocols.responses import RESPONSES

__all__ = ["ResponsesDialect"]

# Of conversations, as characters of their texts and images.
MEMORY_CHARACTERS = 64 << 20


class _Part(BaseModel):
    type: Literal[
        "input_text",
        "output_text",
        "text",
        "refusal",
        "summary_text",
        "reasoning_text",
        "input_image",
        "computer_screenshot",
    ]
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


class _Item(BaseModel):
    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | list[_Part | str] | None = None
    output: Any = None


def _is_text(config: Any) -> bool:
    chosen = config.get("format") if isinstance(config, dict) else None
    return not chosen or (isinstance(chosen, dict) and chosen.get("type") == "text")


def _has_no_effort(reasoning: Any) -> bool:
    return not (isinstance(reasoning, dict) and any(reasoning.values()))


def _has_no_logprobs(include: Any) -> bool:
    return "logprobs" not in str(include)


class _ResponsesRequest(BaseModel):
    """The fields that are heeded, and those that would have to be; it ignores the others."""

    input: str | list[_Item | str] = Field(min_length=1)
    instructions: str | list[_Item | str] | None = None
    previous_response_id: str | None = None
    store: bool | None = True
    stream: bool | None = False
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(0.0, ge=0, le=2)
    tools: Annotated[Any, unserved("calls no tools")] = None
    text: Annotated[Any, unserved("answers in plain text alone", _is_text)] = None
    reasoning: Annotated[Any, unserved("does not think aloud", _has_no_effort)] = None
    include: Annotated[Any, unserved("tells no probabilities", _has_no_logprobs)] = None
    top_logprobs: Annotated[Any, unserved("tells no probabilities")] = None
    conversation: Annotated[Any, unserved("keeps no conversations")] = None


class _Memory:
    """Answers of late: by the id of a response its conversation, by that of an item its turn."""

    def __init__(self, max_characters: int) -> None:
        self._turns: LRUCache[str, list[Turn]] = LRUCache(max_characters, _num_characters)

    def find(self, each: str, param: str) -> list[Turn]:
        turns = self._turns.get(each)
        if turns is None:
            msg = f"{param}: the model does not remember it. Send the conversation itself."
            raise InvalidField(msg, param)
        return turns

    def keep(self, each: str, turns: list[Turn]) -> None:
        if _num_characters(turns) <= self._turns.maxsize:
            self._turns[each] = turns


def _num_characters(turns: Sequence[Turn]) -> int:
    return 1 + sum(len(part) for turn in turns for part in turn.parts)


class ResponsesDialect(Dialect):
    """`POST /v1/responses`."""

    protocol = RESPONSES

    def __init__(self, max_characters: int = MEMORY_CHARACTERS) -> None:
        """Begins with nothing to remember.

        Args:
            max_characters: Of all conversations that are remembered.
        """
        self._memory = _Memory(max_characters)

    def open(self, body: bytes, model: str) -> Exchange:
        """Reads a request; as in `Dialect`."""
        return _Response(read_fields(_ResponsesRequest, body), model, self._memory)


class _Response(Exchange):
    def __init__(self, request: _ResponsesRequest, model: str, memory: _Memory) -> None:
        self._memory = memory if request.store is not False else None
        items = _items(request.input, "user")
        self._said = [turn for item in items for turn in _turns(item, memory)]
        if request.previous_response_id:
            earlier = memory.find(request.previous_response_id, "previous_response_id")
            self._said = earlier + self._said
        told = _items(request.instructions or [], "system")
        self.request = GenerationRequest(
            # The instructions of an earlier request are not carried over.
            turns=[turn for item in told for turn in _turns(item, memory)] + self._said,
            max_tokens=request.max_output_tokens or DEFAULT_ANSWER_TOKENS,
            temperature=request.temperature or 0.0,
            is_streamed=bool(request.stream),
        )
        self._num_events = 0
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._common = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "previous_response_id": request.previous_response_id,
            "temperature": request.temperature,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
        }

    def whole(self, text: str, generation: Generation) -> dict[str, Any]:
        answer = Turn("assistant", [text])
        if self._memory is not None:
            self._memory.keep(self._item_id, [answer])
            self._memory.keep(str(self._common["id"]), [*self._said, answer])
        status = "incomplete" if generation.is_cut else "completed"
        usage = {
            "input_tokens": generation.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": generation.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": generation.prompt_tokens + generation.completion_tokens,
        }
        return self._common | {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if generation.is_cut else None,
            "output": [self._item(status, [_text(text)])],
            "usage": usage,
        }

    def begin(self) -> Iterator[str]:
        begun: dict[str, Any] = {
            "status": "in_progress",
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._common | begun)
        item = self._item("in_progress", [])
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place(), part=_text(""))

    def piece(self, text: str) -> str:
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def end(self, text: str, generation: Generation) -> Iterator[str]:
        whole = self.whole(text, generation)
        yield self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._place(), part=_text(text))
        item = whole["output"][0]
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{whole['status']}", response=whole)

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._item_id,
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> str:
        number, self._num_events = self._num_events, self._num_events + 1
        return self.event({"type": kind, "sequence_number": number} | fields, kind)


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _items(said: str | list[_Item | str], role: str) -> list[_Item]:
    entries = [said] if isinstance(said, str) else said
    return [_Item(role=role, content=e) if isinstance(e, str) else e for e in entries]


def _turns(item: _Item, memory: _Memory) -> list[Turn]:
    """What an item says: a message, or a tool's output as the user's; no calls, no thoughts."""
    if item.type == "item_reference":
        return memory.find(item.id or "", "input.id")
    if item.output is not None:
        return [Turn("user", _output(item.output))]
    if item.content is None or item.type not in {None, "message"}:
        return []
    return [Turn(item.role or "user", _parts(item.content))]


def _parts(content: str | list[_Part | str]) -> list[str | ImageUrl]:
    return [_part(part) for part in ([content] if isinstance(content, str) else content)]


def _part(part: _Part | str) -> str | ImageUrl:
    if isinstance(part, str):
        return part
    if part.image_url is not None:
        return ImageUrl(part.image_url)
    return part.text or part.refusal or ""


def _output(output: Any) -> list[str | ImageUrl]:
    """What a tool gave back: a text, parts, a screenshot, or what a shell wrote."""
    if isinstance(output, str):
        return [output]
    entries = output if isinstance(output, list) else [output]
    url_or_text: list[str | ImageUrl] = []
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("image_url"), str):
            url_or_text.append(ImageUrl(entry["image_url"]))
        elif isinstance(entry, dict) and isinstance(entry.get("text"), str):
            url_or_text.append(entry["text"])
        else:
            url_or_text.append(entry if isinstance(entry, str) else json.dumps(entry))
    return url_or_text
