"""What image files are made of: their parts, and the room that they ask for.

Each function walks through a file from part to part, as its decoder would, and decodes nothing. A
decoder handles parts one by one, some in Python: millions of empty ones are soon sent, and take a
minute. Some decoders make room for all pixels as soon as they are opened.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "START_OF_SCAN",
    "FileLayout",
    "first_frame",
    "segments",
    "walk_blocks",
    "walk_boxes",
    "walk_chunks",
    "walk_items",
    "walk_riff",
    "walk_segments",
]

_PNG_SIGNATURE_BYTES, _CHUNK_FRAME_BYTES = 8, 12
_END_OF_IMAGE, _MARKER_BYTES = 0xD9, 2
START_OF_SCAN = 0xDA
# Stuffed and filling bytes, restarts and TEM are no segments; whatever else follows 0xFF is one.
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_WEBP_HEADER_BYTES = 30
_GIF_HEADER_BYTES, _GIF_FRAME_BYTES = 13, 10
_EXTENSION, _FRAME, _TRAILER, _CONTROL = 0x21, 0x2C, 0x3B, b"\x21\xf9\x04"
_CONTROL_BYTES = 8
# Boxes that hold boxes, and how many bytes stand before the first of them.
_NESTS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0}
# Boxes of many small entries, each of which a decoder reads, keeps and looks up.
_TABLES = frozenset({b"iinf", b"iloc", b"iref", b"ipma", b"grpl", b"mdia"})
_ENTRY_BYTES = 8


@dataclass(slots=True)
class FileLayout:
    """What a file is made of.

    Attributes:
        num_parts: Parts that cost a decoder time; so do bytes between parts, one each.
        num_scans: Passes over the whole picture.
        width: Columns that its decoder makes room for when it is opened; 0 where it does not.
        height: Rows of the same.
        num_frames: Pictures in turn; None where the decoder tells.
        box: Left, top, right and bottom of what the first frame covers; None for all of it.
    """

    num_parts: int = 0
    num_scans: int = 0
    width: int = 0
    height: int = 0
    num_frames: int | None = None
    box: tuple[int, int, int, int] | None = None

    def make_room(self, width: int, height: int) -> None:
        """Notes a picture for which there will be room."""
        self.width, self.height = max(self.width, width), max(self.height, height)


def walk_chunks(image: bytes, most: int) -> FileLayout:
    """Counts the chunks of a PNG, up to a bound."""
    layout, where = FileLayout(), _PNG_SIGNATURE_BYTES
    while where < len(image) and layout.num_parts <= most:
        layout.num_parts += 1
        where += _CHUNK_FRAME_BYTES + int.from_bytes(image[where : where + 4], "big")
    return layout


def walk_segments(image: bytes, most: int) -> FileLayout:
    """Counts the segments and scans of a JPEG, up to a bound.

    What metadata holds, previews included, is passed over; so is what follows the image, which is
    a second picture in what cameras write (MPO), or the map of an Ultra HDR's highlights.
    """
    layout, before = FileLayout(num_frames=1), _MARKER_BYTES
    for kind, start, end in segments(image):
        if layout.num_scans == 0:
            layout.num_parts += start - before
        layout.num_parts += 1
        layout.num_scans += kind == START_OF_SCAN
        if layout.num_parts > most:
            break
        before = end
    return layout


def segments(image: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG up to the end of the image."""
    where = _MARKER_BYTES
    while (found := _SEGMENT.search(image, where)) is not None:
        kind, start, where = image[found.start() + 1], found.start(), found.end()
        if kind == _END_OF_IMAGE:
            return
        where += max(_MARKER_BYTES, _big(image[where : where + 2]))
        yield kind, start, where


def walk_riff(image: bytes, _most: int) -> FileLayout:
    """Reads width and height from the first chunk of a WebP (RFC 9649, section 2)."""
    header = image[:_WEBP_HEADER_BYTES].ljust(_WEBP_HEADER_BYTES, b"\0")
    kind = header[12:16]
    if kind == b"VP8X":
        return FileLayout(width=1 + _little(header[24:27]), height=1 + _little(header[27:30]))
    if kind == b"VP8L":
        bits = _little(header[21:25])
        return FileLayout(width=1 + (bits & 0x3FFF), height=1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        return FileLayout(
            width=_little(header[26:28]) & 0x3FFF, height=_little(header[28:30]) & 0x3FFF
        )
    return FileLayout()


def walk_blocks(image: bytes, most: int) -> FileLayout:
    """Counts the blocks of a GIF up to a bound, and its frames up to two (GIF89a, appendix B).

    Of the blocks within a block those count that are not full: the length of a body bounds those.
    """
    layout = FileLayout(num_frames=0)
    layout.make_room(_little(image[6:8]), _little(image[8:10]))
    for kind, start, _, num_short in _blocks(image, most):
        layout.num_parts += 1 + num_short
        if kind == _FRAME:
            layout.num_frames = (layout.num_frames or 0) + 1
            if layout.num_frames == 1:
                left, top, width, height = (
                    _little(image[start + at : start + at + 2]) for at in (1, 3, 5, 7)
                )
                layout.box = (left, top, left + width, top + height)
                layout.make_room(left + width, top + height)
        if layout.num_parts > most or layout.num_frames == 2:
            break
    return layout


def first_frame(image: bytes) -> bytes:
    """Takes out of a GIF what its first frame needs: a GIF of that frame alone.

    Comments, applications' data and whatever is no block at all are left behind.
    """
    control = b""
    for kind, start, end, _ in _blocks(image, len(image)):
        block = image[start:end]
        if block.startswith(_CONTROL) and len(block) == _CONTROL_BYTES:
            control = block
        elif kind == _FRAME:
            return image[: _end_of_gif_header(image)] + control + block + bytes([_TRAILER])
    return image[: _end_of_gif_header(image)]


def _blocks(image: bytes, most: int) -> Iterator[tuple[int, int, int, int]]:
    """Kind, start, end, and blocks within that are not full, of each block up to the trailer."""
    where = _end_of_gif_header(image)
    while where < len(image) and image[where] != _TRAILER:
        kind, start, num_short = image[where], where, 0
        if kind == _FRAME:
            flags = image[where + 9] if where + 9 < len(image) else 0
            where += _GIF_FRAME_BYTES + _bytes_of_colours(flags) + 1
        elif kind == _EXTENSION:
            where += 2
        while kind in {_FRAME, _EXTENSION} and where < len(image) and image[where]:
            num_short += image[where] < 0xFF
            where += 1 + image[where]
            if num_short > most:
                break
        where += 1
        yield kind, start, where, num_short


def _end_of_gif_header(image: bytes) -> int:
    return _GIF_HEADER_BYTES + _bytes_of_colours(image[10] if len(image) > 10 else 0)


def _bytes_of_colours(flags: int) -> int:
    """Length of the table of colours that follows, if the flags say that one does."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def walk_boxes(image: bytes, most: int) -> FileLayout:
    """Counts the boxes of an AVIF or HEIC and the entries of their tables, up to a bound.

    Reads how large its pictures are (ISO/IEC 23008-12, `ispe`; 14496-12, `tkhd`): tiles, previews
    and auxiliary pictures included.
    """
    layout, rest = FileLayout(), [(0, len(image))]
    while rest and layout.num_parts <= most:
        for kind, start, end in _boxes(image, *rest.pop()):
            layout.num_parts += 1
            if kind in _TABLES:
                layout.num_parts += (end - start) // _ENTRY_BYTES
            elif kind in _NESTS:
                rest.append((start + _NESTS[kind], end))
            elif kind == b"ispe":
                layout.make_room(
                    _big(image[start + 4 : start + 8]), _big(image[start + 8 : start + 12])
                )
            elif kind == b"tkhd":
                # The two last fields, in 16 bits before the point and 16 behind it.
                layout.make_room(_big(image[end - 8 : end - 6]), _big(image[end - 4 : end - 2]))
            if layout.num_parts > most:
                break
    return layout


def walk_items(image: bytes, most: int) -> FileLayout:
    """The same of a HEIC: one of its pictures is the primary one, whatever stands beside it."""
    layout = walk_boxes(image, most)
    layout.num_frames = 1
    return layout


def _boxes(image: bytes, where: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and where its content starts and ends, of each box between two places."""
    while where + 8 <= end:
        size, kind, head = _big(image[where : where + 4]), image[where + 4 : where + 8], 8
        if size == 1:
            size, head = _big(image[where + 8 : where + 16]), 16
        elif size == 0:
            size = end - where
        if size < head:
            return
        yield kind, where + head, min(end, where + size)
        where += size


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")


def _big(number: bytes) -> int:
    return int.from_bytes(number, "big")
