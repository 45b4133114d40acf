"""Reads an image out of a text: a data: URL or bare base64, never something that is elsewhere."""

import binascii

import pybase64

from codefend.service.errors import InvalidField, InvalidImage, RemoteImage

__all__ = ["read_inline_image"]


def read_inline_image(text: str, param: str) -> bytes:
    """Reads a data: URL or bare base64; what its header calls the image is not believed.

    Args:
        text: As received.
        param: The field it came in, for errors.

    Raises:
        RemoteImage: It is a URL to somewhere else.
        InvalidField: It is neither.
        InvalidImage: There are no bytes in it.
    """
    text = text.strip()
    scheme, separator, _ = text[:64].partition(":")
    if separator and scheme.lower() != "data":
        raise RemoteImage(param=param)
    if text.startswith("//"):
        raise RemoteImage(param=param)
    if separator:
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            msg = f"{param} must be a data: URL in base64: data:image/png;base64,..."
            raise InvalidField(msg, param)
    return _from_base64(text, param)


def _from_base64(text: str, param: str) -> bytes:
    if not text:
        msg = "The image is empty."
        raise InvalidImage(msg, param)
    try:
        return bytes(pybase64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        msg = f"{param} is neither a data: URL nor valid base64."
        raise InvalidField(msg, param) from error
