"""What runs inside a decode process: bytes in, pixels into shared memory, sizes and fields out."""

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.decode.confinement import allow_cpu_time, confine
from service.decode.envelope import open_envelope
from service.decode.picture import PictureLimits, decode_picture
from service.decode.rehearsal import rehearse
from service.errors import RequestRefused
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
    return partial(_decode, config), {"unconfined": unconfined}


def _decode(config: DecodeConfig, meta: dict[str, Any], body: bytes) -> Message:
    allow_cpu_time(config.cpu_s)
    try:
        image, fields = open_envelope(meta["content_type"], body)
        pixels, format_name = decode_picture(image, config.limits)
        write_pixels(meta["pixels"], Picture.DECODED, pixels)
    except RequestRefused as refusal:
        return {
            "refused": refusal.code,
            "message": refusal.public_message,
            "param": refusal.param,
        }, b""
    except FileNotFoundError:
        # The client left, and its memory was freed: nobody reads this.
        return {"refused": "client_left", "message": "", "param": None}, b""
    return {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "format": format_name,
        "sha256": hashlib.sha256(image).hexdigest(),
        "fields": fields,
    }, b""
