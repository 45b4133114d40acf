"""What one value of a request may hold: plain values, references, media, and images inside texts.

No server that is known takes a picture out of a text unless its own syntax says so:
text-generation-inference fetches `![](url)`, text-generation-webui takes `<img src="...">`, and a
processor counts placeholder tokens such as `<image>` against the pictures it was given.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from codefend.service.policy import TextImages
from codefend.service.protocols.fields import MEDIA_TYPES

__all__ = [
    "LONGEST_NAME",
    "LONGEST_REFERENCE",
    "find_media",
    "find_text_image",
    "is_empty",
    "is_name",
    "is_number",
    "is_plain",
    "is_reference",
]

LONGEST_NAME = 64
LONGEST_REFERENCE = 256
_LONGEST_BASE64 = 80

# Parsers of URLs skip white space, and take a backslash for a slash.
_URL = re.compile(
    r":\s*[\\/]\s*[\\/]|^\s*[\\/]\s*[\\/]|\b(?:d\s*a\s*t\s*a|file|blob)\s*:", re.IGNORECASE
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{81}|[A-Za-z0-9_-]{81}")
_NAME = re.compile(r"[A-Za-z0-9_.$-]{1,64}")

# Possessive quantifiers: nobody's white space is read twice.
_LINK = re.compile(r"\]\s*+\(")
_DATA_LINK = re.compile(r"\]\s*+\(\s*+<?\s*+data:", re.IGNORECASE)
_BRACKETS = re.compile(r"!\[|\[|\]")
_IMAGE_TAG = re.compile(r"<\s*+(?:img|image|source)\b[^<>]*?\b(?:src|href)", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"<\|?/?(?:[a-z]{1,16}_(?:of|a)_)?_?_?(?:img|image|vision|picture|media|video)[^<>\s]{0,40}>"
    r"|\[/?(?:img|image)[^\]\s]{0,24}\]",
    re.IGNORECASE,
)


def find_text_image(value: Any, syntaxes: Collection[str] = ()) -> str | None:
    """Says how an image stands in a text, or in any text of a JSON value, names included.

    Args:
        value: JSON.
        syntaxes: What the upstream reads, by `TextImages`; Markdown images of data always.

    Returns:
        What was found, for a message; None where there is nothing.
    """
    for text in _texts(value):
        found = _find(text, syntaxes)
        if found is not None:
            return found
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield name
            yield from _texts(entry)


def _find(text: str, syntaxes: Collection[str]) -> str | None:
    if "![" in text:
        if _is_image(text, _DATA_LINK):
            return "a Markdown image of data"
        if TextImages.MARKDOWN in syntaxes and _is_image(text, _LINK):
            return "a Markdown image"
    if TextImages.HTML in syntaxes and _IMAGE_TAG.search(text):
        return "an HTML image"
    if TextImages.PLACEHOLDERS in syntaxes and _PLACEHOLDER.search(text):
        return "an image placeholder"
    return None


def _is_image(text: str, link: re.Pattern[str]) -> bool:
    """Whether a link of this form is an image's; CommonMark nests brackets, others do not."""
    if link.search(text) is None:
        return False
    is_image_by_depth: list[bool] = []
    has_opened_since_close = False
    for bracket in _BRACKETS.finditer(text):
        if bracket[0] != "]":
            is_image_by_depth.append(bracket[0] == "![")
            has_opened_since_close |= is_image_by_depth[-1]
            continue
        is_image = (is_image_by_depth.pop() if is_image_by_depth else False) or (
            has_opened_since_close
        )
        has_opened_since_close = False
        if is_image and link.match(text, bracket.start()):
            return True
    return False


def is_name(text: str) -> bool:
    """Whether a text can be the name of a field."""
    return _NAME.fullmatch(text) is not None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number, true, false or null."""
    return value is None or isinstance(value, bool | int | float)


def is_empty(value: Any) -> bool:
    """Whether there is nothing in a JSON value; zero and false are something."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def is_plain(value: Any) -> bool:
    """Whether a JSON value holds numbers and short texts alone, and no URL."""
    return _is_short(value) if isinstance(value, str) else _consists_of(value, _is_short)


def is_reference(value: Any) -> bool:
    """Whether a JSON value holds numbers and names alone, neither URLs nor base64."""
    return _consists_of(value, _is_reference)


def find_media(value: Any) -> str | None:
    """The type of the first object in a JSON value that is a medium; None where there is none."""
    if isinstance(value, list):
        entries = value
    elif isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind in MEDIA_TYPES and not _is_text_document(value):
            return kind
        entries = list(value.values())
    else:
        return None
    return next((kind for kind in map(find_media, entries) if kind is not None), None)


def _is_text_document(value: dict[str, Any]) -> bool:
    """Whether it is what Anthropic's tools fetch as text."""
    source = value.get("source")
    return value["type"] == "document" and isinstance(source, dict) and source.get("type") == "text"


def _consists_of(value: Any, is_fine: Callable[[str], bool]) -> bool:
    if isinstance(value, str):
        return is_fine(value)
    if isinstance(value, list):
        return all(_consists_of(entry, is_fine) for entry in value)
    if isinstance(value, dict):
        return all(
            _is_short(name) and _consists_of(entry, is_fine) for name, entry in value.items()
        )
    return True


def _is_short(text: str) -> bool:
    return len(text) <= LONGEST_NAME and not _is_url(text)


def _is_reference(text: str) -> bool:
    if len(text) <= _LONGEST_BASE64:
        return not _is_url(text)
    return len(text) <= LONGEST_REFERENCE and not (_is_url(text) or _BASE64.search(text))


def _is_url(text: str) -> bool:
    # Most names have neither of these characters, and looking for them costs next to nothing.
    return (":" in text or "/" in text or "\\" in text) and _URL.search(text) is not None
