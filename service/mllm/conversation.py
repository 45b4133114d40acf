"""Reads a chat/completions request into what the model's processor takes."""

import binascii
import io
from dataclasses import dataclass
from typing import Any, Literal

import pybase64
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from codefend.service.errors import InvalidField

__all__ = ["ChatRequest", "Conversation", "read_conversation"]

DEFAULT_ANSWER_TOKENS = 64


# The model was taught three roles; what it was not taught is told to it as one of them.
_ROLES = {"developer": "system", "tool": "user"}


class ImageUrl(BaseModel):
    """Where an image is: only in the URL itself."""

    url: str


class ContentPart(BaseModel):
    """One part of a message."""

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class ChatMessage(BaseModel):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart | str] | None = None


class ChatRequest(BaseModel):
    """The fields of OpenAI's request that the embedded model heeds; it ignores the others."""

    model_config = ConfigDict(extra="ignore")

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = False
    n: Literal[1] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(0.0, ge=0, le=2)

    @property
    def num_tokens(self) -> int:
        """Longest answer; the newer of its two names wins."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_ANSWER_TOKENS


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
        parts = message.content or []
        if isinstance(parts, str):
            parts = [parts]
        content = [_template_part(part, images, special_tokens) for part in parts]
        role = _ROLES.get(message.role, message.role)
        messages.append({"role": role, "content": content})
    return Conversation(messages, images)


def _template_part(
    part: ContentPart | str, images: list[Image.Image], special_tokens: list[str]
) -> dict[str, Any]:
    if isinstance(part, str):
        part = ContentPart(type="text", text=part)
    if part.type == "image_url" and part.image_url is not None:
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        images.append(_read_image(url))
        return {"type": "image"}
    text = part.text or part.refusal or ""
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
