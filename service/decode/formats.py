"""The image files that are taken: how each is told, and what its parts will cost a decoder.

A format is a row of `FORMATS`, and another one is taken as soon as it has a row. Pillow has to
decode it in one thread and without files of its own: the decode processes test it at their start.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pybase64

from codefend.service.errors import AnimatedImage, InvalidImage, UnsupportedImage

__all__ = [
    "FORMATS",
    "FORMAT_LABELS",
    "FileFormat",
    "Parts",
    "Sent",
    "count_parts",
    "identify",
    "read_canvas",
    "sniff_format",
]

_GIF = (b"GIF87a", b"GIF89a")
_PNG_SIGNATURE_BYTES, _CHUNK_FRAME_BYTES = 8, 12
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Stuffed and filling bytes, restarts and TEM are no segments; whatever else follows 0xFF is one.
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_WEBP_HEADER_BYTES = 30
# Up to here it takes less time than the way to a thread and back.
SMALL_FILE_BYTES = 1 << 20


# What each format costs before a pixel of it is decoded.


@dataclass(slots=True)
class Parts:
    """How many parts a file has; bytes that fill the space between segments count as one each."""

    num_parts: int = 0
    num_scans: int = 0


def _count_chunks(image: bytes, most: int) -> Parts:
    parts, where = Parts(), _PNG_SIGNATURE_BYTES
    while where < len(image) and parts.num_parts <= most:
        parts.num_parts += 1
        where += _CHUNK_FRAME_BYTES + int.from_bytes(image[where : where + 4], "big")
    return parts


def _count_segments(image: bytes, most: int) -> Parts:
    """What metadata holds, previews included, is passed over; what follows the image too."""
    parts, where = Parts(), 2
    while parts.num_parts <= most:
        found = _SEGMENT.search(image, where)
        if found is None or image[found.start() + 1] == _END_OF_IMAGE:
            break
        if parts.num_scans == 0:
            parts.num_parts += found.start() - where
        parts.num_parts += 1
        parts.num_scans += image[found.start() + 1] == _START_OF_SCAN
        length = int.from_bytes(image[found.end() : found.end() + 2], "big")
        where = found.end() + max(2, length)
    return parts


def read_canvas(image: bytes) -> tuple[int, int]:
    """Reads width and height from the first chunk of a WebP (RFC 9649, section 2).

    Its decoder makes room for that before it can be asked.

    Returns:
        (0, 0) where the header is none that the format knows.
    """
    header = image[:_WEBP_HEADER_BYTES].ljust(_WEBP_HEADER_BYTES, b"\0")
    kind = header[12:16]
    if kind == b"VP8X":
        return 1 + _number(header[24:27]), 1 + _number(header[27:30])
    if kind == b"VP8L":
        bits = _number(header[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return _number(header[26:28]) & 0x3FFF, _number(header[28:30]) & 0x3FFF
    return 0, 0


def _number(little_endian: bytes) -> int:
    return int.from_bytes(little_endian, "little")


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A format that is taken.

    Attributes:
        name: As Pillow calls it, and as answers and logs do.
        label: As people write it.
        suffixes: Of its files' names, in lower case.
        signature: What its first bytes match.
        sample_modes: Colour modes, as Pillow calls them, that the self-test decodes.
        count_parts: Counts what a file is made of, up to a bound; where each part costs time.
        read_canvas: Reads width and height from the header; where a decoder that is only opened
            makes room for all pixels.
    """

    name: str
    label: str
    suffixes: tuple[str, ...]
    signature: re.Pattern[bytes]
    sample_modes: tuple[str, ...] = ("RGB",)
    count_parts: Callable[[bytes, int], Parts] = lambda _image, _most: Parts()
    read_canvas: Callable[[bytes], tuple[int, int]] = lambda _image: (0, 0)

    @property
    def media_type(self) -> str:
        """For a `data:` URL or a Content-Type header."""
        return f"image/{self.name.lower()}"


_JPEG = FileFormat(
    "JPEG",
    "JPEG",
    (".jpg", ".jpeg"),
    re.compile(rb"\xff\xd8\xff"),
    sample_modes=("RGB", "CMYK"),
    count_parts=_count_segments,
)
_PNG = FileFormat(
    "PNG",
    "PNG",
    (".png",),
    re.compile(rb"\x89PNG\r\n\x1a\n"),
    sample_modes=("RGBA",),
    count_parts=_count_chunks,
)
_WEBP = FileFormat(
    "WEBP",
    "WebP",
    (".webp",),
    re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    read_canvas=read_canvas,
)
FORMATS = {row.name: row for row in (_JPEG, _PNG, _WEBP)}
_LABELS = [row.label for row in FORMATS.values()]
# For messages: "A, B or C".
FORMAT_LABELS = f"{', '.join(_LABELS[:-1])} or {_LABELS[-1]}"


def sniff_format(image: bytes) -> str:
    """Names the format of an image by its first bytes; what a client calls it is never believed.

    Returns:
        A name of `FORMATS`.

    Raises:
        InvalidImage: There are no bytes.
        AnimatedImage: It is a GIF with what looks like more than one frame.
        UnsupportedImage: It is anything else.
    """
    if not image:
        msg = "The image is empty."
        raise InvalidImage(msg, "image")
    for row in FORMATS.values():
        if row.signature.match(image):
            return row.name
    # Said apart from other types, because animation is why a GIF was sent.
    if image.startswith(_GIF) and image.count(b"\x00\x21\xf9\x04") > 1:
        raise AnimatedImage(param="image")
    msg = f"The image is not a {FORMAT_LABELS}."
    raise UnsupportedImage(msg, "image")


def count_parts(image: bytes, format_name: str, most: int) -> Parts:
    """Walks through a file from part to part, as a decoder does; nothing is decoded.

    A JPEG's scan is a pass over the whole picture. Chunks and segments are handled in Python, one
    by one: some millions of empty ones are soon sent, and take a minute.

    Args:
        image: The file, sound or not.
        format_name: A name of `FORMATS`; some count as nothing.
        most: Counting ends beyond it.
    """
    return FORMATS[format_name].count_parts(image, most)


@dataclass(frozen=True, slots=True)
class Sent:
    """An image that is passed on as it was sent, where purification is off: named, not decoded.

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
        UnsupportedImage: It is of no format that is taken.
    """
    if len(file) <= SMALL_FILE_BYTES:
        return _identify(file)
    return await asyncio.to_thread(_identify, file)


def _identify(file: bytes) -> Sent:
    row = FORMATS[sniff_format(file)]
    facts = {"sha256": hashlib.sha256(file).hexdigest(), "format": row.name}
    return Sent(f"data:{row.media_type};base64,{pybase64.b64encode_as_string(file)}", facts)
