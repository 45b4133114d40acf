"""Reads how large a WebP says it is: its decoder makes room for that before it can be asked."""

__all__ = ["read_canvas"]

_HEADER_END = 30


def read_canvas(image: bytes) -> tuple[int, int]:
    """Reads width and height from the first chunk of a WebP (RFC 9649, section 2).

    Returns:
        (0, 0) where the header is none that the format knows.
    """
    header = image[:_HEADER_END].ljust(_HEADER_END, b"\0")
    kind = header[12:16]
    if kind == b"VP8X":
        return 1 + _number(header[24:27]), 1 + _number(header[27:30])
    if kind == b"VP8L":
        bits = _number(header[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return _number(header[26:28]) & 0x3FFF, _number(header[28:30]) & 0x3FFF
    return 0, 0


def _number(little_endian: bytes) -> int:
    return int.from_bytes(little_endian, "little")
