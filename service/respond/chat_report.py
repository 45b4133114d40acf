"""Says what was done with the images of a chat: the `codefend` object beside its choices."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codefend.service.schemas import Defense

__all__ = ["ImageReport", "describe_chat"]


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What was done with one image.

    Attributes:
        param: Its place in the request.
        width: In pixels; None for an image that was passed on as it was sent.
        height: In pixels; the same.
        defense: What the defence did.
        purified_image: A `data:` URL; None where there is none.
    """

    param: str
    width: int | None
    height: int | None
    defense: Defense
    purified_image: str | None


def describe_chat(
    images: Sequence[ImageReport], timings_ms: dict[str, float] | None, *, with_images: bool
) -> bytes:
    """Writes the object as JSON.

    Args:
        images: In the order of the conversation.
        timings_ms: Milliseconds by stage; None where they are not disclosed.
        with_images: Whether the caller asked to see the purified images.
    """
    reports = b",".join(_describe_image(image, with_image=with_images) for image in images)
    timings = json.dumps(timings_ms).encode()
    return b'{"images":[' + reports + b'],"timings_ms":' + timings + b"}"


def _describe_image(image: ImageReport, *, with_image: bool) -> bytes:
    fields: dict[str, Any] = {
        "param": image.param,
        "width": image.width,
        "height": image.height,
        "defense": image.defense.model_dump(),
    }
    if not with_image:
        return json.dumps(fields).encode()
    if image.purified_image is None:
        return json.dumps(fields | {"purified_image": None}).encode()
    # Megabytes of base64 need no escaping, and are not searched for what would.
    url = image.purified_image.encode("ascii")
    return json.dumps(fields).encode()[:-1] + b',"purified_image":"' + url + b'"}'
