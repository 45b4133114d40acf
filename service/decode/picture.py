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
from functools import cache
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops

from codefend.models.shrink import shrink, shrunken_size
from codefend.service.decode.colours import lay_on_white
from codefend.service.decode.unended import endings, has_all_scans
from codefend.service.errors import AnimatedImage, ImageTooLarge, InvalidImage
from codefend.service.formats.containers import FileLayout
from codefend.service.formats.table import FORMATS, FileFormat, sniff_format
from codefend.service.policy import Animated

if TYPE_CHECKING:
    from codefend.service.settings import Settings

__all__ = ["Inspect", "PictureLimits", "decode_picture", "self_test"]

# Called with the format, the pixels of the file, and height and width of what will come of it, as
# its header has them, before any pixel is decoded.
Inspect = Callable[[str, int, int, int], None]

# The decoders raise these on damaged files; anything else would be a fault of ours.
_DAMAGE = (
    OSError,
    RuntimeError,
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
_WHITE = (255, 255, 255)
_SAMPLE_SIDE_PX, _LONGEST_SAMPLE_SIDE_PX = 8, 64


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """How large a picture may be, and of how much its file may be made.

    Attributes:
        max_pixels: Width times height.
        max_side_px: Width, and height.
        max_jpeg_scans: Passes over the picture that a progressive JPEG may ask for.
        max_file_parts: Chunks of a PNG, segments of a JPEG, blocks of a GIF, or boxes of an AVIF or
            HEIC.
        animated: What becomes of a picture with several frames.
        purify_side_px: A picture with a longer side is scaled down to it; 0 for any.
    """

    max_pixels: int
    max_side_px: int
    max_jpeg_scans: int = 64
    max_file_parts: int = 65_536
    animated: Animated = Animated.REFUSE
    purify_side_px: int = 0

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        """Takes what concerns pictures out of the settings."""
        return cls(
            settings.max_pixels,
            settings.max_side_px,
            settings.max_jpeg_scans,
            settings.max_file_parts,
            settings.animated,
            settings.purify_side_px,
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

    def check_file(self, image: bytes, row: FileFormat) -> FileLayout:
        """Refuses, before any decoder sees it, a file that would cost too much to open.

        Args:
            image: The file.
            row: Its format.

        Returns:
            What it is made of.

        Raises:
            ImageTooLarge: Its header asks for too much room, or it has too many scans or parts.
        """
        layout = row.walk(image, self.max_file_parts)
        if layout.num_scans > self.max_jpeg_scans:
            msg = f"The JPEG has over {self.max_jpeg_scans} scans."
            raise ImageTooLarge(msg, "image")
        if layout.num_parts > self.max_file_parts:
            msg = f"The file has over {self.max_file_parts} parts."
            raise ImageTooLarge(msg, "image")
        self.check(layout.width, layout.height)
        return layout

    def check_frames(self, num_frames: int) -> None:
        """Refuses an animation, unless its first frame is to be taken.

        Raises:
            AnimatedImage: It is one.
        """
        if num_frames > 1 and self.animated is Animated.REFUSE:
            raise AnimatedImage(param="image")


def _inspect_nothing(_format: str, _num_pixels: int, _height: int, _width: int) -> None:
    return


def decode_picture(
    image: bytes, limits: PictureLimits, inspect: Inspect = _inspect_nothing
) -> tuple[NDArray[np.uint8], str]:
    """Decodes one picture of a format that is taken, as a viewer would show it.

    The orientation that its metadata asks for is applied, its colours become sRGB, transparency is
    laid on white, and all metadata is dropped. A picture with too long a side is scaled down: from
    all of its pixels, and not by JPEG's own scaling, which is no mean of them.

    Args:
        image: The file.
        limits: Checked against the header, before any pixel is decoded.
        inspect: Called next; what it raises ends the decoding.

    Returns:
        Pixels (H, W, 3) uint8 RGB, and the format, a name of `FORMATS`.

    Raises:
        InvalidImage: The file is empty, damaged or truncated.
        UnsupportedImage: It is another format, or nothing is installed that reads it.
        AnimatedImage: It has more than one frame, and such pictures are refused.
        ImageTooLarge: It is beyond the limits, or memory does not suffice for it.
    """
    row = FORMATS[sniff_format(image)]
    row.check_installed()
    try:
        with warnings.catch_warnings():
            # Of Pillow's warnings only the bomb's matters; our limit is lower, and is a refusal.
            warnings.simplefilter("ignore")
            return _decode(image, row, limits, inspect), row.name
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(param="image") from error
    except MemoryError as error:
        raise ImageTooLarge(param="image") from error
    except _DAMAGE as error:
        raise InvalidImage(param="image") from error


def _decode(
    image: bytes, row: FileFormat, limits: PictureLimits, inspect: Inspect
) -> NDArray[np.uint8]:
    layout = limits.check_file(image, row)
    with row.open(image) as picture:
        limits.check(*picture.size)
        limits.check_frames(int(layout.num_frames or getattr(picture, "n_frames", 1) or 1))
        size = shrunken_size(picture.height, picture.width, limits.purify_side_px)
        inspect(row.name, picture.height * picture.width, *size)
        shown = lay_on_white(_upright(_load(picture, image, row)))
        if layout.box is not None and layout.box != (0, 0, *shown.size):
            ground = Image.new("RGB", shown.size, _WHITE)
            ground.paste(shown.crop(layout.box), layout.box)
            shown = ground
        return shrink(np.asarray(shown), limits.purify_side_px)


def _load(picture: Image.Image, image: bytes, row: FileFormat) -> Image.Image:
    """Decodes an opened picture, and a JPEG also if all that it lacks is its end marker."""
    try:
        return _load_whole(picture, image)
    except OSError:
        if row.name != "JPEG" or not has_all_scans(image):
            raise
        ended = (_load_whole(row.open(file), file) for file in endings(image))
        first = next(ended)
        if any(ImageChops.difference(first, other).getbbox() for other in ended):
            raise
        return first


def _load_whole(picture: Image.Image, image: bytes) -> Image.Image:
    # Read in one piece: Pillow would copy the rest anew for each of its own small blocks.
    picture.decodermaxblock = len(image)  # type: ignore[attr-defined]
    picture.load()
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turns a picture as its Exif asks; what cannot be read asks for nothing, and XMP is not asked.

    Browsers do the same.
    """
    if "exif" not in picture.info:
        return picture
    with contextlib.suppress(*_DAMAGE):
        exif = Image.Exif()
        exif.load(picture.info["exif"])
        turn = _TURNS.get(exif.get(ExifTags.Base.Orientation, 1))
        if turn is not None:
            return picture.transpose(turn)
    return picture


def self_test() -> None:
    """Decodes small pictures of each format: what decoding loads late is loaded then.

    Raises:
        RequestRefused: One could not be decoded: the process is of no use.
    """
    side_px = _LONGEST_SAMPLE_SIDE_PX
    limits = PictureLimits(side_px**2, side_px, purify_side_px=_SAMPLE_SIDE_PX // 2)
    for sample in _make_samples():
        decode_picture(sample, limits)


@cache
def _make_samples() -> tuple[bytes, ...]:
    """A file of each format that is read here, made before there is a sandbox."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 2
    samples = []
    for row in FORMATS.values():
        for mode in row.sample_modes:
            buffer = io.BytesIO()
            Image.new(mode, (_SAMPLE_SIDE_PX,) * 2).save(buffer, row.name, exif=exif)
            samples.append(buffer.getvalue())
        if row.sample and row.is_installed:
            samples.append(row.sample)
    return tuple(samples)
