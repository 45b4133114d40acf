"""Where the defensive prompt goes in a conversation: beside the user's words, never into them.

In every later request of a conversation it stands where it stood before, so that what an upstream
keeps of a common beginning stays of use.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, TypeGuard

from codefend.service.protocols.base import Protocol

__all__ = ["GapKind", "Placing", "PromptPlace", "PromptSource", "place_prompt"]


class PromptSource(StrEnum):
    """What goes to the model beside a question about an image."""

    TEMPLATE = "template"
    GENERATOR = "generator"
    OFF = "off"


class PromptPlace(StrEnum):
    """Where it goes in a conversation."""

    TURN = "turn"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Placing:
    """Where prompts are to go in a conversation.

    Attributes:
        place: Where.
        adds_parts: Whether one may stand beside an image of which nothing is said; not where it
            could turn out to say nothing either, as some servers refuse parts without words.
    """

    place: PromptPlace
    adds_parts: bool = True


class GapKind(StrEnum):
    """What comes into a gap of a request that was taken apart."""

    IMAGE = "i"
    BEFORE = "b"
    BEHIND = "e"
    SYSTEM = "s"


def place_prompt(
    document: dict[str, Any],
    protocol: Protocol,
    placing: Placing,
    image_turns: Iterable[int | None],
    gap: Callable[[GapKind, int], str],
) -> list[str]:
    """Leaves gaps for a prompt in a request with images.

    Args:
        document: The request, as parsed; changed in place.
        protocol: Whose it is.
        placing: Where prompts go.
        image_turns: For each image, the index of its message; None for what stands in none.
        gap: Makes the gap of one kind, for the prompt of the question of that number.

    Returns:
        What is asked of the images: each is to have its prompt.
    """
    conversation = document.get(protocol.conversation)
    messages = conversation if isinstance(conversation, list) else []
    if placing.place is PromptPlace.SYSTEM:
        question = conversation if isinstance(conversation, str) else _last(messages, protocol)
        protocol.instruct(document, gap(GapKind.SYSTEM, 0))
        return [question]
    if isinstance(conversation, str):
        document[protocol.conversation] = _between(conversation, 0, gap)
        return [conversation]
    turns = {len(messages) if turn is None else turn for turn in image_turns}
    carriers = sorted({index for turn in turns for index in _carriers(turn, messages, protocol)})
    if not placing.adds_parts:
        carriers = [index for index in carriers if _said(messages[index], protocol) is not None]
    return [_tell(messages[index], protocol, number, gap) for number, index in enumerate(carriers)]


def _carriers(turn: int, messages: list[Any], protocol: Protocol) -> list[int]:
    """The message that the prompt of an image goes to: its own, or for a tool's the one before."""
    if turn < len(messages) and _is_user(messages[turn]):
        return [turn]
    order = chain(range(turn - 1, -1, -1), range(turn + 1, len(messages)))
    return [index for index in order if _said(messages[index], protocol) is not None][:1]


def _tell(
    message: dict[str, Any], protocol: Protocol, number: int, gap: Callable[[GapKind, int], str]
) -> str:
    """Leaves gaps around what a user says, or one beside an image of which nothing is said."""
    said = _said(message, protocol)
    if said is None:
        part = {"type": protocol.text_types[0], "text": gap(GapKind.SYSTEM, number)}
        message["content"].append(part)
        return ""
    holder, key = said
    question: str = holder[key]
    holder[key] = _between(question, number, gap)
    return question


def _between(question: str, number: int, gap: Callable[[GapKind, int], str]) -> str:
    return gap(GapKind.BEFORE, number) + question + gap(GapKind.BEHIND, number)


def _last(messages: list[Any], protocol: Protocol) -> str:
    """The last text of a user; empty where there is none."""
    found = (_said(message, protocol) for message in reversed(messages))
    return next((str(place[0][place[1]]) for place in found if place is not None), "")


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
