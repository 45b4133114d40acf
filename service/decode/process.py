"""What runs inside a decode process: bytes in, pixels into shared memory, sizes and fields out.

Or a whole chat or a list of images in, and out come the images' files and what stands around them.
Where purification is off no pixels are asked for, and the image's file comes out as it is.
"""

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from codefend.service.decode.chat import ChatLimits, open_chat
from codefend.service.decode.picture import PictureLimits, decode_picture, self_test
from codefend.service.decode.wire import open_envelope, read_image_list
from codefend.service.errors import ClientLeft, RequestRefused
from codefend.service.formats.table import FORMATS
from codefend.service.processes.child import Ask, Handler, Message
from codefend.service.processes.pixels import Picture, write_pixels
from codefend.service.protocols.base import all_protocols
from codefend.service.protocols.fields import FieldRules
from codefend.service.protocols.prompting import Placing, PromptPlace
from codefend.service.sandbox.layers import allow_cpu_time, confine

__all__ = ["DecodeConfig", "make_decoder", "report_refusal"]


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """What a decode process is told; there are no keys in it."""

    limits: PictureLimits
    memory_bytes: int
    cpu_s: int
    pixels_directory: str


def make_decoder(config: DecodeConfig) -> tuple[Handler, dict[str, Any]]:
    """Confines the present process and returns its message handler.

    What it says about itself is the list of the sandbox's layers that it lacks.
    """
    all_protocols()  # loads them all, while files can still be read
    # The parsers' remarks on strangers' bodies: the service logs what becomes of every request.
    logging.disable(logging.CRITICAL)
    threads = any(row.starts_threads and row.is_installed for row in FORMATS.values())
    directory = Path(config.pixels_directory)
    unconfined = confine(config.memory_bytes, directory, self_test, starts_threads=threads)
    return partial(_handle, config), {"unconfined": unconfined}


class _NotWanted(Exception):
    """The service wants no pixels of this picture: it has them, or has refused the request."""


def _handle(config: DecodeConfig, meta: dict[str, Any], body: bytes, ask: Ask) -> Message:
    allow_cpu_time(config.cpu_s)
    try:
        if "chat" in meta:
            limits, packed = ChatLimits(**meta["chat"]), meta["placing"]
            placing = packed and Placing(PromptPlace(packed["place"]), packed["adds_parts"])
            protocol, rules = all_protocols()[meta["path"]], FieldRules(**meta["rules"])
            return open_chat(body, protocol, limits, placing, rules).pack()
        if "max_images" in meta:
            files = read_image_list(body, meta["max_images"])
            return {"lengths": [len(file) for file in files]}, b"".join(files)
        return _open(config, meta, body, ask)
    except RequestRefused as refusal:
        return report_refusal(refusal), b""
    except FileNotFoundError:
        # The client left, and its memory was freed: nobody reads this.
        return report_refusal(ClientLeft()), b""


def _open(config: DecodeConfig, meta: dict[str, Any], body: bytes, ask: Ask) -> Message:
    image, fields = open_envelope(meta["content_type"], body)
    if not meta["decodes"]:
        return {"fields": fields}, image
    sha256 = hashlib.sha256(image).hexdigest()
    try:
        return _decode(config, image, sha256, ask) | {"sha256": sha256, "fields": fields}, b""
    except _NotWanted:
        return {"fields": fields}, b""


def _decode(config: DecodeConfig, image: bytes, sha256: str, ask: Ask) -> dict[str, Any]:
    """Asks where the pixels shall go once their number is known, and puts them there."""
    place = ""

    def inspect(format_name: str, file_pixels: int, height: int, width: int) -> None:
        nonlocal place
        size = {"file_pixels": file_pixels, "height": height, "width": width}
        header = {"format": format_name, "sha256": sha256} | size
        place = ask(header)["pixels"]
        if not place:
            raise _NotWanted

    pixels, _ = decode_picture(image, config.limits, inspect)
    write_pixels(place, Picture.DECODED, pixels)
    return {"height": pixels.shape[0], "width": pixels.shape[1]}


def report_refusal(refusal: RequestRefused) -> dict[str, Any]:
    """What a decode process answers instead of its work: it may send no objects."""
    return {
        "refused": refusal.code,
        "message": refusal.public_message,
        "param": refusal.param,
    }
