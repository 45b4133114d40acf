"""Reads a chat/completions request into what the model's processor takes."""

import binascii
import io
from dataclasses import dataclass
from typing import Any, Literal

import pybase64
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from service.errors import InvalidField

__all__ = ["ChatRequest", "Conversation", "read_conversation"]

DEFAULT_ANSWER_TOKENS = 64


class ImageUrl(BaseModel):
    """Where an image is: only in the URL itself."""

    url: str


class ContentPart(BaseModel):
    """One part of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class ChatMessage(BaseModel):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str | list[ContentPart]


class ChatRequest(BaseModel):
    """The fields of OpenAI's request that the embedded model heeds; it ignores the others."""

    model_config = ConfigDict(extra="ignore")

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    stream: bool = False
    max_tokens: int = Field(DEFAULT_ANSWER_TOKENS, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the form of a chat template, and the images they refer to, in order."""

    messages: list[dict[str, Any]]
    images: list[Image.Image]


def read_conversation(request: ChatRequest, special_tokens: list[str]) -> Conversation:
    """Takes the images out of the messages.

    Args:
        request: As received.
        special_tokens: Taken out of every text: only the template may write them.

    Raises:
        InvalidField: An image is not a readable data: URL.
    """
    images: list[Image.Image] = []
    messages = []
    for message in request.messages:
        parts = message.content
        if isinstance(parts, str):
            parts = [ContentPart(type="text", text=parts)]
        content = [_template_part(part, images, special_tokens) for part in parts]
        messages.append({"role": message.role, "content": content})
    return Conversation(messages, images)


def _template_part(
    part: ContentPart, images: list[Image.Image], special_tokens: list[str]
) -> dict[str, Any]:
    if part.type == "image_url" and part.image_url is not None:
        images.append(_read_image(part.image_url.url))
        return {"type": "image"}
    text = part.text or ""
    for token in special_tokens:
        text = text.replace(token, " ")
    return {"type": "text", "text": text}


def _read_image(url: str) -> Image.Image:
    header, _, payload = url.partition(",")
    if not header.startswith("data:image/"):
        msg = "image_url must be a data: URL."
        raise InvalidField(msg, "image_url")
    try:
        return Image.open(io.BytesIO(pybase64.b64decode(payload, validate=True))).convert("RGB")
    except (OSError, ValueError, binascii.Error) as error:
        msg = "image_url holds no readable image."
        raise InvalidField(msg, "image_url") from error
