"""Counts the scans of a JPEG: each is a pass over the picture, and a file may ask for many."""

import re

__all__ = ["count_scans"]

_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Stuffed and filling bytes, restarts and TEM are no segments; whatever else follows 0xFF is one.
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")


def count_scans(image: bytes) -> int:
    """Walks from segment to segment, as a decoder does, up to the end of the image.

    What metadata holds, previews included, is passed over; nothing is decoded.

    Args:
        image: A JPEG, sound or not.
    """
    num_scans, where = 0, 2
    while (found := _SEGMENT.search(image, where)) is not None:
        kind = image[found.start() + 1]
        if kind == _END_OF_IMAGE:
            break
        num_scans += kind == _START_OF_SCAN
        length = int.from_bytes(image[found.end() : found.end() + 2], "big")
        where = found.end() + max(2, length)
    return num_scans
