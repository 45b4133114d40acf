"""Decodes one small picture of each format: loads what decoding loads late, and proves it works."""

import io

from PIL import Image

from codefend.service.decode.picture import PictureLimits, decode_picture

__all__ = ["rehearse"]

_SIDE_PX = 8
_ORIENTATION, _MIRRORED = 0x0112, 2


def rehearse() -> None:
    """Decodes a JPEG, a PNG and a WebP that are made here.

    Raises:
        RequestRefused: One could not be decoded: the process is of no use.
    """
    limits = PictureLimits(max_pixels=_SIDE_PX**2, max_side_px=_SIDE_PX)
    exif = Image.Exif()
    exif[_ORIENTATION] = _MIRRORED
    for format_name, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("WEBP", "RGB")):
        buffer = io.BytesIO()
        Image.new(mode, (_SIDE_PX, _SIDE_PX)).save(buffer, format_name, exif=exif)
        decode_picture(buffer.getvalue(), limits)
