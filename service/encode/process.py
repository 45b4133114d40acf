"""What runs inside an encode process: pixels from shared memory in, an encoded picture out."""

from typing import Any

from codefend.models.codec import ImageFormat, encode_image
from codefend.service.processes.messages import Ask, Handler, Message
from codefend.service.processes.pixels import Picture, read_pixels

__all__ = ["make_encoder"]


def make_encoder(_: None) -> tuple[Handler, dict[str, Any]]:
    """Returns the message handler of an encode process."""
    return _encode, {}


def _encode(meta: dict[str, Any], _: bytes, __: Ask) -> Message:
    try:
        picture = Picture(meta["picture"])
        pixels = read_pixels(meta["pixels"], picture, meta["height"], meta["width"])
    except FileNotFoundError:
        # The client left, and its memory was freed: nobody reads this.
        return {}, b""
    return {}, encode_image(pixels, ImageFormat(meta["format"]))
