"""JPEGs that lack only their end marker: some cameras and gateways lose it, and browsers show them.

A decoder does not say whether it had all data. It is asked several times, with something else
behind the data each time: if all is there, the pictures are the same; if any bit is missing, it is
another one in each of them.
"""

from collections.abc import Iterator

from codefend.service.formats.containers import START_OF_SCAN, segments

__all__ = ["endings", "has_all_scans"]

_END_OF_IMAGE = b"\xff\xd9"
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; all by Huffman's codes
_NUM_COEFFICIENTS, _HEAD_BYTES = 64, 4
# Where data ends too early, decoders go on with zeros. These bits differ from those, and from each
# other: two of the codes that they make may be unknown, and count for the same.
_NOISES = (b"\xfe" * 64, b"\xaa" * 64, b"\x33" * 64)


def endings(image: bytes) -> Iterator[bytes]:
    """Ends a JPEG at once, and behind what would be decoded if anything were missing.

    Where the file has restart markers, that includes what follows the next one.
    """
    # A single 0xFF may be half of the marker that is missing; before another byte it would be one.
    data = image.rstrip(b"\xff")
    where, number = max((data.rfind(bytes([0xFF, 0xD0 | number])), number) for number in range(8))
    restart = bytes([0xFF, 0xD0 | (number + 1 & 7 if where >= 0 else 0)])
    yield data + _END_OF_IMAGE
    for noise in _NOISES:
        yield data + noise + restart + noise + _END_OF_IMAGE


def has_all_scans(image: bytes) -> bool:
    """Whether the scans that have begun would bring every coefficient to its full precision.

    Data that ends between two scans looks complete otherwise.
    """
    missing: dict[int, set[int]] = {}
    for kind, start, end in segments(image):
        body = image[start + _HEAD_BYTES : end]
        try:
            if kind in _FRAMES:
                components = (body[6 + 3 * index] for index in range(body[5]))
                missing = {name: set(range(_NUM_COEFFICIENTS)) for name in components}
            elif kind == START_OF_SCAN:
                names = [body[1 + 2 * index] for index in range(body[0])]
                first, last, precision = body[1 + 2 * len(names) : 4 + 2 * len(names)]
                # Bits that are still to come of each coefficient: the lower four.
                if precision & 0xF == 0:
                    for name in names:
                        missing[name] -= set(range(first, last + 1))
        except (IndexError, KeyError, ValueError):
            return False
    return bool(missing) and not any(missing.values())
