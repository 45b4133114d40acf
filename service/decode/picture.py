"""Turns the bytes of one image into RGB pixels, refusing whatever is not one whole picture.

Runs in the decode processes and in the command line; the limits hold before memory is spent.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.decode.sniffing import sniff_format
from service.errors import AnimatedImage, ImageTooLarge, InvalidImage

__all__ = ["PictureLimits", "decode_picture"]

# Pillow's own decoders raise these on damaged files; anything else would be a fault of ours.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError)
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """How large a picture may be."""

    max_pixels: int
    max_side_px: int

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


def decode_picture(image: bytes, limits: PictureLimits) -> tuple[NDArray[np.uint8], str]:
    """Decodes one still JPEG, PNG or WebP.

    The orientation that its metadata asks for is applied; transparency is laid on white; all
    metadata and any colour profile are dropped.

    Args:
        image: The file.
        limits: Checked against the header, before any pixel is decoded.

    Returns:
        Pixels (H, W, 3) uint8 RGB, and the format (`PNG`, `JPEG`, `WEBP`).

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
            return _decode(image, format_name, limits), format_name
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(param="image") from error
    except MemoryError as error:
        raise ImageTooLarge(param="image") from error
    except _DAMAGE as error:
        raise InvalidImage(param="image") from error


def _decode(image: bytes, format_name: str, limits: PictureLimits) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(image), formats=[format_name]) as picture:
        limits.check(*picture.size)
        if getattr(picture, "n_frames", 1) > 1:
            raise AnimatedImage(param="image")
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(_on_white(upright))


def _on_white(picture: Image.Image) -> Image.Image:
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
