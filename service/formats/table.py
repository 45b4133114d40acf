"""The image files that are taken: how each is told, and with what it is opened.

A format is a row of `FORMATS`, and another one is taken as soon as it has a row. Its library has to
decode it without files of its own, and in one thread where it can: the decode processes test it at
their start.
"""

import asyncio
import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from PIL import Image

from codefend.models.codec import ascii_url
from codefend.service.errors import InvalidImage, UnsupportedImage
from codefend.service.formats.containers import (
    FileLayout,
    first_frame,
    walk_blocks,
    walk_boxes,
    walk_chunks,
    walk_items,
    walk_riff,
    walk_segments,
)

__all__ = ["FORMATS", "FORMAT_LABELS", "FileFormat", "Sent", "identify", "sniff_format"]

# Up to here it takes less time than the way to a thread and back.
SMALL_FILE_BYTES = 1 << 20
# Black, 64 x 64 pixels.
_HEIC_SAMPLE = """
AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAUJtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAA
AAAAACJpbG9jAAAAAERAAAEAAQAAAAABZgABAAAAAAAAABMAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAA
AA5waXRtAAAAAAABAAAAwmlwcnAAAACkaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNw
AAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHB
crAiQAAAABRpc3BlAAAAAAAAAEAAAABAAAAAEHBpeGkAAAAAAwgICAAAABZpcG1hAAAAAAAAAAEAAQOBAgMAAAAbbWRhdAAA
AA8oAa8FGP0BDUn/15Xwk4A=
"""
# Said apart from other files, because people do send them.
_STRANGERS = {
    "TIFF": rb"II\*\x00|MM\x00\*",
    "BMP": rb"BM",
    "ICO": rb"\x00\x00\x01\x00",
    "PDF": rb"%PDF-",
    "SVG": rb"\s*(?:<\?xml|<!DOCTYPE\s+svg|<svg)",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
    "PSD": rb"8BPS",
}


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A format that is taken.

    Attributes:
        name: As answers and logs call it.
        label: As people write it.
        suffixes: Of its files' names, in lower case.
        signature: What its first bytes match.
        open: Opens a file that was walked through; none of its pixels is decoded yet.
        walk: Tells what a file is made of, counting up to a bound of parts.
        sample_modes: Colour modes, as Pillow calls them, that the self-test writes and decodes.
        sample: A file for the self-test, where what reads the format cannot write it.
        module: What reads it, where that is not always installed: by this package's extra of the
            same name as the format, in lower case.
        starts_threads: Whether its decoder cannot do without a thread of its own.
    """

    name: str
    label: str
    suffixes: tuple[str, ...]
    signature: re.Pattern[bytes]
    open: Callable[[bytes], Image.Image]
    walk: Callable[[bytes, int], FileLayout]
    sample_modes: tuple[str, ...] = ("RGB",)
    sample: bytes = b""
    module: str | None = None
    starts_threads: bool = False

    @property
    def media_type(self) -> str:
        """For a `data:` URL or a Content-Type header."""
        return f"image/{self.name.lower()}"

    @property
    def is_installed(self) -> bool:
        """Whether there is what reads it."""
        return self.module is None or find_spec(self.module) is not None

    def check_installed(self) -> None:
        """Refuses a format that could be read, and is not here.

        Raises:
            UnsupportedImage: Its module is missing.
        """
        if not self.is_installed:
            msg = (
                f"{self.label} is not read here. Send a JPEG, or the operator may install it: "
                f"pip install 'codefend[{self.name.lower()}]'."
            )
            raise UnsupportedImage(msg, "image")


# The libraries are loaded late: the decode processes alone need them.


def _open_jpeg(image: bytes) -> Image.Image:
    """Opens the first picture as what it is.

    `Image.open` calls a JPEG with an index of further pictures, as cameras write it, another format
    (MPO), and each of them a frame.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    return JpegImageFile(io.BytesIO(image))


def _open_png(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image), formats=["PNG"])


def _open_webp(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image), formats=["WEBP"])


def _open_gif(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(first_frame(image)), formats=["GIF"])


def _open_avif(image: bytes) -> Image.Image:
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    return AvifImagePlugin.AvifImageFile(io.BytesIO(image))


def _open_heic(image: bytes) -> Image.Image:
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 0
    picture: Image.Image = pillow_heif.HeifImageFile(io.BytesIO(image))
    return picture


def _brands(*brands: str) -> re.Pattern[bytes]:
    """Files of boxes (ISO/IEC 14496-12) that claim to be one of these things."""
    return re.compile(
        rb"\x00\x00..ftyp(?:.{4}){0,30}?(?:" + "|".join(brands).encode("ascii") + rb")", re.DOTALL
    )


_JPEG = FileFormat(
    "JPEG",
    "JPEG",
    (".jpg", ".jpeg"),
    re.compile(rb"\xff\xd8\xff"),
    _open_jpeg,
    walk_segments,
    sample_modes=("RGB", "CMYK"),
)
_PNG = FileFormat(
    "PNG",
    "PNG",
    (".png",),
    re.compile(rb"\x89PNG\r\n\x1a\n"),
    _open_png,
    walk_chunks,
    sample_modes=("RGBA",),
)
_WEBP = FileFormat(
    "WEBP", "WebP", (".webp",), re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _open_webp, walk_riff
)
_GIF = FileFormat("GIF", "GIF", (".gif",), re.compile(rb"GIF8[79]a"), _open_gif, walk_blocks)
_AVIF = FileFormat("AVIF", "AVIF", (".avif",), _brands("avif", "avis"), _open_avif, walk_boxes)
_HEIC = FileFormat(
    "HEIC",
    "HEIC",
    (".heic", ".heif"),
    _brands("hei[cxms]", "hev[cxms]"),
    _open_heic,
    walk_items,
    sample_modes=(),
    sample=base64.b64decode(_HEIC_SAMPLE),
    module="pillow_heif",
    starts_threads=True,
)
FORMATS = {row.name: row for row in (_JPEG, _PNG, _WEBP, _GIF, _AVIF, _HEIC)}
_LABELS = [row.label for row in FORMATS.values()]
# For messages: "A, B or C".
FORMAT_LABELS = f"{', '.join(_LABELS[:-1])} or {_LABELS[-1]}"


def sniff_format(image: bytes) -> str:
    """Names the format of an image by its first bytes; what a client calls it is never believed.

    Returns:
        A name of `FORMATS`.

    Raises:
        InvalidImage: There are no bytes.
        UnsupportedImage: It is of another format, which the message names if it is well known.
    """
    if not image:
        msg = "The image is empty."
        raise InvalidImage(msg, "image")
    for row in FORMATS.values():
        if row.signature.match(image):
            return row.name
    for stranger, signature in _STRANGERS.items():
        if re.match(signature, image):
            msg = f"The image is a {stranger}. Send a {FORMAT_LABELS}."
            raise UnsupportedImage(msg, "image")
    msg = f"The image is not a {FORMAT_LABELS}."
    raise UnsupportedImage(msg, "image")


@dataclass(frozen=True, slots=True)
class Sent:
    """An image that is passed on as it was sent, where purification is off: named, not decoded.

    Attributes:
        url: The same bytes as a `data:` URL, under the type that they have.
        facts: What the audit may say of it; later stages add to it.
    """

    url: bytes
    facts: dict[str, Any]


async def identify(file: bytes) -> Sent:
    """Names an image by its first bytes and its hash.

    Raises:
        InvalidImage: There are no bytes.
        UnsupportedImage: It is of no format that is taken.
    """
    if len(file) <= SMALL_FILE_BYTES:
        return _identify(file)
    return await asyncio.to_thread(_identify, file)


def _identify(file: bytes) -> Sent:
    row = FORMATS[sniff_format(file)]
    facts = {"sha256": hashlib.sha256(file).hexdigest(), "format": row.name}
    return Sent(ascii_url(file, row.media_type), facts)
