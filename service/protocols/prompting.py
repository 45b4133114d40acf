"""Where the defensive prompt goes in a conversation: beside the user's words, never into them.

In every later request of a conversation it stands where it stood before, so that what an upstream
keeps of a common beginning stays of use.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, TypeGuard

from codefend.models.prompts.templates import Template
from codefend.service.protocols.base import Protocol

__all__ = ["Prompt", "PromptPlace", "PromptSource", "place_prompt"]


class PromptSource(StrEnum):
    """What goes to the model beside a question about an image."""

    TEMPLATE = "template"
    OFF = "off"


class PromptPlace(StrEnum):
    """Where it goes in a conversation."""

    TURN = "turn"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is put into a conversation with images, and where.

    Attributes:
        template: The words.
        place: Around what the user says of an image, or behind the system prompt.
    """

    template: Template
    place: PromptPlace = PromptPlace.TURN

    def pack(self) -> dict[str, Any]:
        """For another process."""
        return {"template": asdict(self.template), "place": self.place.value}

    @staticmethod
    def unpack(packed: dict[str, Any] | None) -> "Prompt | None":
        """What `pack` made; None of None."""
        if packed is None:
            return None
        return Prompt(Template(**packed["template"]), PromptPlace(packed["place"]))


def place_prompt(
    document: dict[str, Any], protocol: Protocol, prompt: Prompt, image_turns: Iterable[int | None]
) -> bool:
    """Puts a prompt into a request with images.

    Args:
        document: The request, as parsed; changed in place.
        protocol: Whose it is.
        prompt: What is put there.
        image_turns: For each image, the index of its message; None for what stands in none.

    Returns:
        Whether there was a place for it.
    """
    if prompt.place is PromptPlace.SYSTEM:
        if prompt.template.instructions:
            protocol.instruct(document, prompt.template.instructions)
        return True
    conversation = document.get(protocol.conversation)
    if isinstance(conversation, str):
        document[protocol.conversation] = prompt.template.fill(conversation)
        return True
    messages = conversation if isinstance(conversation, list) else []
    turns = {len(messages) if turn is None else turn for turn in image_turns}
    carriers = {index for turn in turns for index in _carriers(turn, messages, protocol)}
    for index in carriers:
        _tell(messages[index], protocol, prompt.template)
    return bool(carriers)


def _carriers(turn: int, messages: list[Any], protocol: Protocol) -> list[int]:
    """The message that the prompt of an image goes to: its own, or for a tool's the one before."""
    if turn < len(messages) and _is_user(messages[turn]):
        return [turn]
    order = chain(range(turn - 1, -1, -1), range(turn + 1, len(messages)))
    return [index for index in order if _said(messages[index], protocol) is not None][:1]


def _tell(message: dict[str, Any], protocol: Protocol, template: Template) -> None:
    """Puts a prompt around what a user says, or beside an image of which nothing is said."""
    said = _said(message, protocol)
    if said is not None:
        holder, key = said
        holder[key] = template.fill(holder[key])
    elif template.instructions:
        part = {"type": protocol.text_types[0], "text": template.instructions}
        message["content"].append(part)


def _said(message: object, protocol: Protocol) -> tuple[Any, str | int] | None:
    """Where the last text of a user's message stands that says something: `holder[key]`."""
    if not _is_user(message):
        return None
    content = message.get("content")
    if isinstance(content, str):
        return (message, "content") if content.strip() else None
    for index, part in reversed(list(enumerate(content if isinstance(content, list) else []))):
        if isinstance(part, str) and part.strip():
            return content, index
        is_text = isinstance(part, dict) and part.get("type") in protocol.text_types
        if is_text and isinstance(part.get("text"), str) and part["text"].strip():
            return part, "text"
    return None


def _is_user(message: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(message, dict) and message.get("role") == "user"
