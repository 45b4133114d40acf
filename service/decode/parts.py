"""Counts what a PNG or a JPEG is made of, because each part costs its reader time.

A JPEG's scan is a pass over the whole picture. Chunks and segments are handled in Python, one by
one: some millions of empty ones are soon sent, and take a minute.
"""

import re
from dataclasses import dataclass

__all__ = ["Parts", "count_parts"]

_PNG_SIGNATURE_BYTES, _CHUNK_FRAME_BYTES = 8, 12
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Stuffed and filling bytes, restarts and TEM are no segments; whatever else follows 0xFF is one.
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")


@dataclass(slots=True)
class Parts:
    """How many parts a file has; bytes that fill the space between segments count as one each."""

    num_parts: int = 0
    num_scans: int = 0


def count_parts(image: bytes, format_name: str, most: int) -> Parts:
    """Walks through a file from part to part, as a decoder does; nothing is decoded.

    Args:
        image: The file, sound or not.
        format_name: `PNG` or `JPEG`; other formats count as nothing.
        most: Counting ends beyond it.
    """
    if format_name == "PNG":
        return _count_chunks(image, most)
    if format_name == "JPEG":
        return _count_segments(image, most)
    return Parts()


def _count_chunks(image: bytes, most: int) -> Parts:
    parts, where = Parts(), _PNG_SIGNATURE_BYTES
    while where < len(image) and parts.num_parts <= most:
        parts.num_parts += 1
        where += _CHUNK_FRAME_BYTES + int.from_bytes(image[where : where + 4], "big")
    return parts


def _count_segments(image: bytes, most: int) -> Parts:
    """What metadata holds, previews included, is passed over; what follows the image too."""
    parts, where = Parts(), 2
    while parts.num_parts <= most:
        found = _SEGMENT.search(image, where)
        if found is None or image[found.start() + 1] == _END_OF_IMAGE:
            break
        if parts.num_scans == 0:
            parts.num_parts += found.start() - where
        parts.num_parts += 1
        parts.num_scans += image[found.start() + 1] == _START_OF_SCAN
        length = int.from_bytes(image[found.end() : found.end() + 2], "big")
        where = found.end() + max(2, length)
    return parts
