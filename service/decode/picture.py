"""Turns the bytes of one image into RGB pixels, refusing whatever is not one whole picture.

Runs in the decode processes and in the command line; the limits hold before memory is spent.
"""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from codefend.service.decode.formats import FORMATS, count_parts, sniff_format
from codefend.service.errors import AnimatedImage, ImageTooLarge, InvalidImage
from codefend.service.settings import Settings

__all__ = ["Inspect", "PictureLimits", "decode_picture", "self_test"]

# Called with format, height and width, as the file's header has them, before any pixel is decoded.
Inspect = Callable[[str, int, int], None]

# Pillow's own decoders raise these on damaged files; anything else would be a fault of ours.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    struct.error,
    zlib.error,
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INDEXED = frozenset({"P", "PA"})
_WHITE = (255, 255, 255, 255)
_SELF_TEST_SIDE_PX = 8


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """How large a picture may be, and of how much its file may be made.

    Attributes:
        max_pixels: Width times height.
        max_side_px: Width, and height.
        max_jpeg_scans: Passes over the picture that a progressive JPEG may ask for.
        max_file_parts: Chunks of a PNG, or segments of a JPEG.
    """

    max_pixels: int
    max_side_px: int
    max_jpeg_scans: int = 64
    max_file_parts: int = 65_536

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Takes what concerns pictures out of the settings."""
        return cls(
            settings.max_pixels,
            settings.max_side_px,
            settings.max_jpeg_scans,
            settings.max_file_parts,
        )

    def check(self, width: int, height: int) -> None:
        """Refuses a picture that is too large.

        Raises:
            ImageTooLarge: It has too many pixels or too long a side.
        """
        if width * height > self.max_pixels:
            msg = f"The image has {width}x{height} pixels; at most {self.max_pixels} are taken."
            raise ImageTooLarge(msg, "image")
        if max(width, height) > self.max_side_px:
            msg = f"A side of the image is over {self.max_side_px} pixels long."
            raise ImageTooLarge(msg, "image")

    def check_file(self, image: bytes, format_name: str) -> None:
        """Refuses, before any decoder sees it, a file that would cost too much to open.

        Raises:
            ImageTooLarge: It is a WebP too large, or has too many scans, chunks or segments.
        """
        self.check(*FORMATS[format_name].read_canvas(image))
        parts = count_parts(image, format_name, self.max_file_parts)
        if parts.num_scans > self.max_jpeg_scans:
            msg = f"The JPEG has over {self.max_jpeg_scans} scans."
            raise ImageTooLarge(msg, "image")
        if parts.num_parts > self.max_file_parts:
            msg = f"The file has over {self.max_file_parts} chunks or segments."
            raise ImageTooLarge(msg, "image")


def _inspect_nothing(_format: str, _height: int, _width: int) -> None:
    return


def decode_picture(
    image: bytes, limits: PictureLimits, inspect: Inspect = _inspect_nothing
) -> tuple[NDArray[np.uint8], str]:
    """Decodes one still image of a format that is taken.

    The orientation that its metadata asks for is applied; transparency is laid on white; all
    metadata and any colour profile are dropped.

    Args:
        image: The file.
        limits: Checked against the header, before any pixel is decoded.
        inspect: Called next; what it raises ends the decoding.

    Returns:
        Pixels (H, W, 3) uint8 RGB, and the format, a name of `FORMATS`.

    Raises:
        InvalidImage: The file is empty, damaged or truncated.
        UnsupportedImage: It is another format.
        AnimatedImage: It has more than one frame.
        ImageTooLarge: It is beyond the limits, or memory does not suffice for it.
    """
    format_name = sniff_format(image)
    try:
        with warnings.catch_warnings():
            # Of Pillow's warnings only the bomb's matters; our limit is lower, and is a refusal.
            warnings.simplefilter("ignore")
            return _decode(image, format_name, limits, inspect), format_name
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(param="image") from error
    except MemoryError as error:
        raise ImageTooLarge(param="image") from error
    except _DAMAGE as error:
        raise InvalidImage(param="image") from error


def _decode(
    image: bytes, format_name: str, limits: PictureLimits, inspect: Inspect
) -> NDArray[np.uint8]:
    limits.check_file(image, format_name)
    with Image.open(io.BytesIO(image), formats=[format_name]) as picture:
        limits.check(*picture.size)
        if getattr(picture, "n_frames", 1) > 1:
            raise AnimatedImage(param="image")
        inspect(format_name, picture.height, picture.width)
        # Read in one piece: Pillow would copy the rest anew for each of its own small blocks.
        picture.decodermaxblock = len(image)
        picture.load()
        return np.asarray(_on_white(_upright(picture)))


def _upright(picture: Image.Image) -> Image.Image:
    """Turns a picture as its metadata asks; metadata that cannot be read asks for nothing."""
    with contextlib.suppress(*_DAMAGE):
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
        if turn is not None:
            return picture.transpose(turn)
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in _INDEXED and picture.palette is None:
        msg = "The image has colours by number, and no table of them."
        raise InvalidImage(msg, "image")
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I;16") or picture.mode in {"I", "F"}:
        # Pillow would clip 16 bits at 255: keep the high byte, as every viewer does.
        levels = np.asarray(picture.convert("I")) >> 8
        picture = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = Image.new("RGBA", layer.size, _WHITE)
    return Image.alpha_composite(ground, layer).convert("RGB")


def self_test() -> None:
    """Decodes a small picture of each format, made here: what decoding loads late is loaded then.

    Raises:
        RequestRefused: One could not be decoded: the process is of no use.
    """
    side_px = _SELF_TEST_SIDE_PX
    limits = PictureLimits(max_pixels=side_px**2, max_side_px=side_px)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 2
    for row in FORMATS.values():
        for mode in row.sample_modes:
            buffer = io.BytesIO()
            Image.new(mode, (side_px, side_px)).save(buffer, row.name, exif=exif)
            decode_picture(buffer.getvalue(), limits)
