"""Tells an image's format by its first bytes; what a client calls it is never believed."""

from codefend.service.errors import AnimatedImage, InvalidImage, UnsupportedImage

__all__ = ["sniff_format"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GIF = (b"GIF87a", b"GIF89a")


def sniff_format(image: bytes) -> str:
    """Names the format of an image.

    Returns:
        `PNG`, `JPEG` or `WEBP`, as Pillow calls them.

    Raises:
        InvalidImage: There are no bytes.
        AnimatedImage: It is a GIF with what looks like more than one frame.
        UnsupportedImage: It is anything else.
    """
    if not image:
        msg = "The image is empty."
        raise InvalidImage(msg, "image")
    if image.startswith(_PNG):
        return "PNG"
    if image.startswith(_JPEG):
        return "JPEG"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "WEBP"
    # Said apart from other types, because animation is why a GIF was sent.
    if image.startswith(_GIF) and image.count(b"\x00\x21\xf9\x04") > 1:
        raise AnimatedImage(param="image")
    raise UnsupportedImage(param="image")
