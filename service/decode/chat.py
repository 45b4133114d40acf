"""Takes a chat/completions request apart: its images, and its bytes around them.

The service puts purified images into the gaps and forwards the rest as it is, so that it never
reads a stranger's conversation itself. Runs in the decode processes; small bodies are read where
they came in.
"""

import json
import secrets
from dataclasses import dataclass
from itertools import islice
from typing import Any

from models.prompts.templates import Template
from service.decode.conversation import ImagePlace, find_images, find_last_question
from service.decode.inline_image import read_inline_image
from service.decode.json_object import read_json_object
from service.decode.untouched import check_untouched
from service.errors import InvalidBody, InvalidField, TooManyImages

__all__ = ["Chat", "ChatImage", "ChatLimits", "open_chat"]

OWN_FIELD = "codefend"
_UNDERSTOOD = (
    "messages", "prediction", OWN_FIELD, "stream", "n", "max_tokens", "max_completion_tokens"
)  # fmt: skip
_FACTS = ("has_model", "stream", "return_image", "used_template")


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """What a chat may ask for.

    Attributes:
        max_images: Images in all messages together.
        max_answer_tokens: Tokens of an answer.
        max_choices: Answers to one request.
    """

    max_images: int
    max_answer_tokens: int
    max_choices: int


@dataclass(frozen=True, slots=True)
class ChatImage:
    """The file of one image, and where it stood."""

    file: bytes
    param: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A request in parts.

    Attributes:
        fragments: What goes to the model, as JSON, with a gap after each but the last.
        images: What came in the gaps.
        has_model: Whether the request names a model.
        stream: Whether it asks for server-sent events.
        return_image: Whether the answer is to show the purified images.
        used_template: Whether the defensive prompt stands around its question.
    """

    fragments: tuple[bytes, ...]
    images: tuple[ChatImage, ...]
    has_model: bool
    stream: bool
    return_image: bool
    used_template: bool

    def pack(self) -> tuple[dict[str, Any], bytes]:
        """For another process: facts as JSON, and all bytes one after another."""
        files = [image.file for image in self.images]
        meta = {
            "facts": {name: getattr(self, name) for name in _FACTS},
            "params": [image.param for image in self.images],
            "lengths": [len(part) for part in (*self.fragments, *files)],
        }
        return meta, b"".join((*self.fragments, *files))

    @staticmethod
    def unpack(meta: dict[str, Any], blob: bytes) -> "Chat":
        """What `pack` made.

        Raises:
            ValueError: The other process speaks nonsense.
        """
        parts, start = [], 0
        for length in meta["lengths"]:
            parts.append(blob[start : start + length])
            start += length
        num_fragments = len(meta["params"]) + 1
        files, params = parts[num_fragments:], meta["params"]
        images = tuple(ChatImage(*pair) for pair in zip(files, params, strict=True))
        return Chat(tuple(parts[:num_fragments]), images, **meta["facts"])


def open_chat(body: bytes, limits: ChatLimits, template: Template) -> Chat:
    """Takes a request apart.

    What is not understood is passed on untouched, unless it could bring an image past the purifier.

    Args:
        body: JSON, as received.
        limits: What it may ask for.
        template: Goes around the last text of the user, if there is an image in the conversation.

    Raises:
        InvalidBody: It is no JSON object, or holds a number that JSON cannot.
        InvalidField: A field that is understood has a value that is not allowed.
        MissingField: A field is absent.
        UnsupportedContent: There is something that is neither text nor an image.
        TooManyImages: There are more images than are taken.
        RemoteImage: An image is a URL to somewhere else.
        InvalidImage: An image is empty.
    """
    try:
        return _open(read_json_object(body), limits, template)
    except (RecursionError, MemoryError) as error:
        raise InvalidBody from error


def _open(document: dict[str, Any], limits: ChatLimits, template: Template) -> Chat:
    _check_limits(document, limits)
    return_image = _read_own_field(document)
    if not document.get("model"):
        document.pop("model", None)
    check_untouched(document, _UNDERSTOOD)
    # Counted before any of them is decoded.
    places = list(islice(find_images(document), limits.max_images + 1))
    if len(places) > limits.max_images:
        msg = f"At most {limits.max_images} images are taken in one conversation."
        raise TooManyImages(msg, "messages")
    used_template = bool(places) and _fill_template(document, template)
    images = tuple(ChatImage(read_inline_image(p.url, p.param), p.param) for p in places)
    return Chat(
        fragments=_serialise(document, places),
        images=images,
        has_model="model" in document,
        stream=bool(document.get("stream")),
        return_image=return_image,
        used_template=used_template,
    )


def _check_limits(document: dict[str, Any], limits: ChatLimits) -> None:
    """Upstreams would read "true" as true and 1e9 as a number: what is checked has to be plain."""
    if not isinstance(document.get("stream"), bool | None):
        msg = "stream must be true or false."
        raise InvalidField(msg, "stream")
    most = {
        "n": limits.max_choices,
        "max_tokens": limits.max_answer_tokens,
        "max_completion_tokens": limits.max_answer_tokens,
    }
    for name, maximum in most.items():
        value = document.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
            msg = f"{name} must be a whole number from 1 to {maximum}."
            raise InvalidField(msg, name)


def _read_own_field(document: dict[str, Any]) -> bool:
    """Takes out what is meant for this service alone."""
    own = document.pop(OWN_FIELD, None) or {}
    if not isinstance(own, dict):
        msg = f"{OWN_FIELD} must be an object."
        raise InvalidField(msg, OWN_FIELD)
    unknown = next((name for name in own if name != "return_image"), None)
    if unknown is not None:
        msg = "There is no such field."
        raise InvalidField(msg, f"{OWN_FIELD}.{unknown[:64]}")
    return_image = own.get("return_image", False)
    if not isinstance(return_image, bool):
        msg = f"{OWN_FIELD}.return_image must be true or false."
        raise InvalidField(msg, f"{OWN_FIELD}.return_image")
    return return_image


def _fill_template(document: dict[str, Any], template: Template) -> bool:
    question = find_last_question(document)
    if question is None:
        return False
    holder, key, text = question
    holder[key] = template.fill(text)
    return True


def _serialise(document: dict[str, Any], places: list[ImagePlace]) -> tuple[bytes, ...]:
    """Writes the document with a gap for each image; keys that stood twice stand once."""
    # Nobody can know the mark before it is drawn, and so nobody can write another gap.
    mark = secrets.token_hex(16)
    for place in places:
        place.put(mark)
    try:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        msg = "A number in the body is too large."
        raise InvalidBody(msg) from error
    return tuple(fragment.encode() for fragment in text.split(mark))
