"""An image that is passed on as it was sent, where purification is off: named, not decoded."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from codefend.models.codec import ImageFormat, data_url
from codefend.service.decode.sniffing import sniff_format

__all__ = ["Sent", "identify"]

# Up to here it takes less time than the way to a thread and back.
SMALL_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sent:
    """An image's file.

    Attributes:
        url: The same bytes as a `data:` URL, under the type that they have.
        facts: What the audit may say of it; later stages add to it.
    """

    url: str
    facts: dict[str, Any]


async def identify(file: bytes) -> Sent:
    """Names an image by its first bytes and its hash.

    Raises:
        InvalidImage: There are no bytes.
        AnimatedImage: It is a GIF with what looks like more than one frame.
        UnsupportedImage: It is no JPEG, PNG or WebP.
    """
    if len(file) <= SMALL_FILE_BYTES:
        return _identify(file)
    return await asyncio.to_thread(_identify, file)


def _identify(file: bytes) -> Sent:
    name = sniff_format(file)
    facts = {"sha256": hashlib.sha256(file).hexdigest(), "format": name}
    return Sent(data_url(file, ImageFormat(name.lower())), facts)
