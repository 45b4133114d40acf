"""Reads the messages of a chat: finds every image, refuses whatever is neither image nor text."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from service.decode.untouched import check_untouched
from service.errors import InvalidField, MissingField, UnsupportedContent

__all__ = ["ImagePlace", "find_images", "find_last_question"]

_TEXT_TYPES = ("text", "refusal")
# Notes on a part that clients add for caches and for the model's resolution.
_NOTES = frozenset({"cache_control", "detail"})
_LONGEST_NOTE = 64


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where an image stands in a document: `holder[key]` is its URL; `param` names the place."""

    holder: dict[str, Any]
    key: str
    param: str

    @property
    def url(self) -> str:
        """What stands there."""
        return str(self.holder[self.key])

    def put(self, url: str) -> None:
        """Puts something else there."""
        self.holder[self.key] = url


def find_images(document: dict[str, Any]) -> Iterator[ImagePlace]:
    """Yields the images of a chat in the order of the document, tools' and predictions' included.

    Args:
        document: A chat/completions request.

    Raises:
        UnsupportedContent: Something is neither text nor an image.
        MissingField: There are no messages, or a part lacks what its type says.
        InvalidField: A part, or a message, is malformed.
    """
    if "messages" not in document:
        msg = "The field messages is missing."
        raise MissingField(msg, "messages")
    for name, value in document.items():
        if name == "messages":
            yield from _read_messages(value)
        elif name == "prediction" and isinstance(value, dict):
            yield from _read_content(value.get("content"), "prediction.content")


def find_last_question(document: dict[str, Any]) -> tuple[Any, Any, str] | None:
    """Finds the last text of a user in checked messages.

    Returns:
        Holder, key and text, so that `holder[key]` can be replaced; None where there is none.
    """
    for message in reversed(document["messages"]):
        if message["role"] != "user":
            continue
        content = message.get("content")
        places = [(message, "content", content)] if isinstance(content, str) else _texts(content)
        for holder, key, text in reversed(places):
            if text.strip():
                return holder, key, text
    return None


def _texts(parts: list[Any] | None) -> list[tuple[Any, Any, str]]:
    places: list[tuple[Any, Any, str]] = []
    for index, part in enumerate(parts or []):
        if isinstance(part, str):
            places.append((parts, index, part))
        elif part["type"] == "text":
            places.append((part, "text", part["text"]))
    return places


def _read_messages(messages: Any) -> Iterator[ImagePlace]:
    if not isinstance(messages, list) or not messages:
        msg = "messages must be a list of at least one message."
        raise InvalidField(msg, "messages")
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if not isinstance(message, dict):
            msg = f"{path} must be an object."
            raise InvalidField(msg, path)
        if not isinstance(message.get("role"), str):
            msg = f"{path}.role must be a string."
            raise InvalidField(msg, f"{path}.role")
        # An assistant's `audio` refers to what it once said aloud; a request's is only a wish.
        check_untouched(message, ("role", "content"), f"{path}.", more_media=("audio",))
        yield from _read_content(message.get("content"), f"{path}.content")


def _read_content(content: Any, path: str) -> Iterator[ImagePlace]:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise UnsupportedContent(param=path)
    for index, part in enumerate(content):
        if not isinstance(part, str):
            yield from _read_part(part, f"{path}[{index}]")


def _read_part(part: Any, path: str) -> Iterator[ImagePlace]:
    if not isinstance(part, dict):
        raise UnsupportedContent(param=path)
    kind = part.get("type")
    if kind in _TEXT_TYPES:
        if not isinstance(part.get(kind), str):
            msg = f"{path}.{kind} must be a string."
            raise InvalidField(msg, f"{path}.{kind}")
        _check_rest(part, ("type", kind), path)
    elif kind == "image_url":
        _check_rest(part, ("type", kind), path)
        yield _find_url(part, path)
    else:
        raise UnsupportedContent(param=f"{path}.type")


def _find_url(part: dict[str, Any], path: str) -> ImagePlace:
    """OpenAI's shape is `{"url": ...}`; some clients put the URL itself in its place."""
    if isinstance(part.get("image_url"), str):
        return ImagePlace(part, "image_url", f"{path}.image_url")
    holder, param = part.get("image_url"), f"{path}.image_url.url"
    if not isinstance(holder, dict) or "url" not in holder:
        msg = f"{param} is missing."
        raise MissingField(msg, param)
    if not isinstance(holder["url"], str):
        msg = f"{param} must be a string: a data: URL."
        raise InvalidField(msg, param)
    _check_rest(holder, ("url",), f"{path}.image_url")
    return ImagePlace(holder, "url", param)


def _check_rest(holder: dict[str, Any], known: Collection[str], path: str) -> None:
    """Refuses what else stands in a part, unless no image could be in it or be named by it."""
    for name, value in holder.items():
        is_note = name in _NOTES and _is_short(value)
        if name not in known and not is_note and not _is_number(value):
            raise UnsupportedContent(param=f"{path}.{name[:_LONGEST_NOTE]}")


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _is_short(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_number(entry) or _is_short_text(entry) for entry in value.values())
    return _is_short_text(value)


def _is_short_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NOTE
