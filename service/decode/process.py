"""What runs inside a decode process: bytes in, pixels into shared memory, sizes and fields out.

Or a whole chat in, and out come its images' files and what stands around them. Where purification
is off no pixels are asked for, and the image's file comes out as it is.
"""

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

from models.prompts.templates import Template
from service.decode.chat import ChatLimits, open_chat
from service.decode.confinement import allow_cpu_time, confine
from service.decode.envelope import open_envelope
from service.decode.picture import PictureLimits, decode_picture
from service.decode.refusals import report_refusal
from service.decode.rehearsal import rehearse
from service.errors import ClientLeft, RequestRefused
from service.processes.messages import Handler, Message
from service.processes.pixels import Picture, write_pixels

__all__ = ["DecodeConfig", "make_decoder"]


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """What a decode process is told; there are no keys in it."""

    limits: PictureLimits
    memory_bytes: int
    cpu_s: int


def make_decoder(config: DecodeConfig) -> tuple[Handler, dict[str, Any]]:
    """Confines the present process and returns its message handler.

    What it says about itself is the list of walls that could not be built.
    """
    # The parsers' remarks on strangers' bodies: the service logs what becomes of every request.
    logging.disable(logging.CRITICAL)
    # Once before, so that every library is loaded; once behind the walls, to see that it works.
    rehearse()
    unconfined = confine(config.memory_bytes)
    rehearse()
    return partial(_handle, config), {"unconfined": unconfined}


def _handle(config: DecodeConfig, meta: dict[str, Any], body: bytes) -> Message:
    allow_cpu_time(config.cpu_s)
    try:
        if "chat" in meta:
            limits, template = ChatLimits(**meta["chat"]), Template(**meta["template"])
            return open_chat(body, limits, template).pack()
        return _decode(config, meta, body)
    except RequestRefused as refusal:
        return report_refusal(refusal), b""
    except FileNotFoundError:
        # The client left, and its memory was freed: nobody reads this.
        return report_refusal(ClientLeft()), b""


def _decode(config: DecodeConfig, meta: dict[str, Any], body: bytes) -> Message:
    image, fields = open_envelope(meta["content_type"], body)
    if "pixels" not in meta:
        return {"fields": fields}, image
    pixels, format_name = decode_picture(image, config.limits)
    write_pixels(meta["pixels"], Picture.DECODED, pixels)
    return {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "format": format_name,
        "sha256": hashlib.sha256(image).hexdigest(),
        "fields": fields,
    }, b""
