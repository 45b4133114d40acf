"""Reads what clients send: a body of JSON, a form or a raw image; out come its image and fields.

Runs in the decode processes, because parsing megabytes of JSON or base64 would block the service.
"""

import binascii
import itertools
import json
import re
import string
from typing import Any, NoReturn

import numpy as np
import pybase64
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from codefend.service.errors import (
    CodefendError,
    InvalidBody,
    InvalidField,
    InvalidImage,
    MissingField,
    RemoteImage,
    TooManyImages,
    UnsupportedMedia,
)
from codefend.service.formats.table import FORMATS

__all__ = [
    "check_json",
    "open_envelope",
    "read_image_list",
    "read_inline_image",
    "read_json_object",
]

IMAGE_FIELD = "image"
LIST_FIELD = "images"
# In multipart forms the image may also come under the name that OpenAI's clients use for files.
FILE_FIELDS = ("image", "file")

# No endpoint knows half as many fields; each costs time to take apart.
MAX_FORM_PARTS = 32

# A question of 4000 characters, escaped, fits several times over.
MAX_FIELDS_CHARACTERS = 1 << 16

# What ends the header of a data: URL (WHATWG, Fetch, 6, "data: URL processor").
_BASE64_HEADER = re.compile(r"; *base64\s*$", re.IGNORECASE | re.ASCII)
_WHITE_SPACE = b"\t\n\f\r "
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# Values of hexadecimal digits; -1 for other characters.
_DIGITS = np.full(256, -1, np.int16)
for _digit in string.hexdigits:
    _DIGITS[ord(_digit)] = int(_digit, 16)


def open_envelope(content_type: str, body: bytes) -> tuple[bytes, dict[str, Any]]:
    """Parses a body.

    Args:
        content_type: The Content-Type header.
        body: The whole body.

    Returns:
        The image's bytes, and the other fields.

    Raises:
        UnsupportedMedia: The Content-Type is none that is taken.
        InvalidBody: The body is not what its type says.
        MissingField: There is no image.
        InvalidField: The image field is not text, or not base64.
        RemoteImage: It is a URL to somewhere else.
    """
    raw_type, options = parse_options_header(content_type)
    media_type = raw_type.decode("latin-1").lower()
    if media_type == "application/json":
        return _bounded(*_open_json(body))
    if media_type == "multipart/form-data":
        return _bounded(*_open_form(body, options.get(b"boundary")))
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        return body, {}
    types = ", ".join(row.media_type for row in FORMATS.values())
    msg = f"Send application/json, multipart/form-data, or {types}."
    raise UnsupportedMedia(msg, "content-type")


def check_json(content_type: str) -> None:
    """Lets JSON alone pass.

    Raises:
        UnsupportedMedia: The Content-Type is another.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        msg = "Send application/json."
        raise UnsupportedMedia(msg, "content-type")


def read_image_list(body: bytes, max_images: int) -> list[bytes]:
    """Parses a list of images: `{"images": ["data:image/png;base64,..."]}`.

    Args:
        body: JSON, as received.
        max_images: Most that are taken.

    Returns:
        Their files.

    Raises:
        InvalidBody: It is no JSON object.
        MissingField: There is no list.
        InvalidField: Something else is there, or an image is not text, or not base64.
        TooManyImages: There are more than are taken.
        RemoteImage: One is a URL to somewhere else.
        InvalidImage: One is empty.
    """
    document = read_json_object(body)
    unknown = next((name for name in document if name != LIST_FIELD), None)
    if unknown is not None:
        msg = f"There is no such field. The one that is taken is {LIST_FIELD}."
        raise InvalidField(msg, unknown[:64])
    if LIST_FIELD not in document:
        msg = f"The field {LIST_FIELD} is missing."
        raise MissingField(msg, LIST_FIELD)
    urls = document[LIST_FIELD]
    if not (isinstance(urls, list) and all(isinstance(url, str) for url in urls)):
        msg = f"{LIST_FIELD} must be a list of strings: data: URLs or bare base64."
        raise InvalidField(msg, LIST_FIELD)
    if len(urls) > max_images:
        msg = f"At most {max_images} images are taken in one request."
        raise TooManyImages(msg, LIST_FIELD)
    return [read_inline_image(url, f"{LIST_FIELD}[{index}]") for index, url in enumerate(urls)]


def _bounded(image: bytes, fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Refuses fields that are longer than any that the service knows could be."""
    try:
        num_characters = len(json.dumps(fields))
    except RecursionError as error:
        raise InvalidBody from error
    if num_characters > MAX_FIELDS_CHARACTERS:
        msg = "The fields beside the image are too long."
        raise InvalidBody(msg)
    return image, fields


def _open_json(body: bytes) -> tuple[bytes, dict[str, Any]]:
    document = read_json_object(body)
    image = document.pop(IMAGE_FIELD, None)
    if image is None:
        raise _no_image()
    if not isinstance(image, str):
        msg = "image must be a string: a data: URL or bare base64."
        raise InvalidField(msg, IMAGE_FIELD)
    return read_inline_image(image, IMAGE_FIELD), document


def _open_form(body: bytes, boundary: bytes | None) -> tuple[bytes, dict[str, Any]]:
    if not boundary:
        msg = "The multipart body has no boundary."
        raise InvalidBody(msg)
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    parts = itertools.count(1)

    def count_part() -> None:
        if next(parts) > MAX_FORM_PARTS:
            msg = f"The form has over {MAX_FORM_PARTS} parts."
            raise InvalidBody(msg)

    def on_field(field: Field) -> None:
        name, value = (
            (field.field_name or b"").decode("utf-8"),
            (field.value or b"").decode("utf-8"),
        )
        fields[name] = value
        count_part()

    def on_file(file: File) -> None:
        count_part()
        file.file_object.seek(0)
        files[(file.field_name or b"").decode("utf-8")] = file.file_object.read()

    # A decode process may not write files: everything stays in memory, and the body is bounded.
    config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    parser = FormParser("multipart/form-data", on_field, on_file, boundary=boundary, config=config)
    try:
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise InvalidBody from error
    for name in FILE_FIELDS:
        if name in files:
            return files[name], fields
    if IMAGE_FIELD in fields:
        return read_inline_image(fields.pop(IMAGE_FIELD), IMAGE_FIELD), fields
    raise _no_image()


def _no_image() -> CodefendError:
    msg = "There is no image. Send it as the field image (JSON or form) or as the body itself."
    return MissingField(msg, IMAGE_FIELD)


def read_json_object(body: bytes) -> dict[str, Any]:
    """Parses a body.

    Raises:
        InvalidBody: It is not JSON, no object, or nested so deeply that nobody means it.
    """
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        msg = "The body is not valid JSON."
        raise InvalidBody(msg) from error
    if not isinstance(document, dict):
        msg = "The body must be a JSON object."
        raise InvalidBody(msg)
    return document


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are Python's, and no JSON."""
    raise ValueError(name)


def read_inline_image(text: str, param: str) -> bytes:
    """Reads a data: URL or bare base64; what its header calls the image is not believed.

    Base64 is read as browsers read it (WHATWG, "forgiving-base64 decode"): white space counts
    nowhere, and padding may be missing. Its alphabet is either of RFC 4648's, but not a mixture;
    in a URL, any of its characters may be percent-encoded.

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
        if not comma or _BASE64_HEADER.search(header) is None:
            msg = f"{param} must be a data: URL in base64: data:image/png;base64,..."
            raise InvalidField(msg, param)
    return _from_base64(text, param, is_url=bool(separator))


def _from_base64(text: str, param: str, *, is_url: bool) -> bytes:
    try:
        image = bytes(pybase64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        image = _from_forgiven_base64(text, param, is_url=is_url)
    if not image:
        msg = "The image is empty."
        raise InvalidImage(msg, param)
    return image


def _from_forgiven_base64(text: str, param: str, *, is_url: bool) -> bytes:
    """What is no base64 by the letter, but plainly meant to be; in steps that take linear time."""
    try:
        plain = text.encode("ascii")
        if is_url and b"%" in plain:
            plain = _unescape(plain)
        plain = plain.translate(None, _WHITE_SPACE)
        if not any(byte in plain for byte in b"+/"):
            plain = plain.translate(_FROM_URL_SAFE)
        if len(plain) % 4 and not plain.endswith(b"="):
            plain += b"=" * (-len(plain) % 4)
        return bytes(pybase64.b64decode(plain, validate=True))
    except (binascii.Error, ValueError) as error:
        msg = f"{param} is neither a data: URL nor valid base64 of one alphabet, +/ or -_."
        raise InvalidField(msg, param) from error


def _unescape(text: bytes) -> bytes:
    """Percent-decodes (RFC 3986, 2.1) all at once: one by one, millions would take seconds.

    Raises:
        ValueError: A percent sign is not followed by two digits.
    """
    characters = np.frombuffer(text, np.uint8)
    signs = np.flatnonzero(characters == ord("%"))
    if signs[-1] + 2 >= len(characters):
        msg = "the text ends within an escape"
        raise ValueError(msg)
    sixteens, ones = _DIGITS[characters[signs + 1]], _DIGITS[characters[signs + 2]]
    if min(sixteens.min(), ones.min()) < 0:
        msg = "a percent sign escapes nothing"
        raise ValueError(msg)
    decoded, stays = characters.copy(), np.ones(len(characters), bool)
    decoded[signs] = 16 * sixteens + ones
    stays[signs + 1] = stays[signs + 2] = False
    return decoded[stays].tobytes()
