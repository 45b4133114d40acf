"""Mutations of files, blind and by format; everything follows from a seed and a number."""

import random
import struct
import zlib

from tests.fuzz.seeds import seeds

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FULL_GROWN_BYTES = 1 << 16
PNG_KINDS = (
    b"acTL", b"fcTL", b"fdAT", b"tRNS", b"PLTE", b"iCCP", b"zTXt",
    b"iTXt", b"eXIf", b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"CgBI",
)  # fmt: skip
NUMS_STEPS = (1, 1, 1, 2, 3, 4)


def mutate(seed, number):
    """The n-th mutated file of a seed: where it began, and its bytes."""
    chance = random.Random(f"{seed}/{number}")
    name, image = chance.choice(seeds())
    for _ in range(chance.choice(NUMS_STEPS)):
        # A step may multiply what it is given.
        if len(image) < FULL_GROWN_BYTES:
            image = _step(chance, image)
    return name, image


def _step(chance, image):
    by_format = next((act for mark, act in _BY_FORMAT.items() if image.startswith(mark)), None)
    if by_format is not None and chance.random() < 0.6:
        try:
            return by_format(chance, image)
        except (struct.error, IndexError, ValueError, zlib.error):
            pass  # an earlier step left too little of the format: go on blindly
    return chance.choice(_BLIND)(chance, image)


def flip_bits(chance, image):
    image = bytearray(image)
    for _ in range(chance.choice((1, 1, 2, 4, 16)) if image else 0):
        image[chance.randrange(len(image))] ^= 1 << chance.randrange(8)
    return bytes(image)


def set_edge(chance, image):
    """Overwrites 1, 2 or 4 bytes with a number at which arithmetic overflows."""
    size, value = chance.choice((1, 2, 4)), chance.choice(EDGES)
    value &= (1 << (8 * size)) - 1
    where = chance.randrange(max(1, len(image) - size))
    return (
        image[:where]
        + value.to_bytes(size, chance.choice(("big", "little")))
        + image[where + size :]
    )


def truncate(chance, image):
    return image[: chance.randrange(len(image) + 1)]


def _slice(chance, image):
    start = chance.randrange(len(image) + 1)
    return start, min(len(image), start + chance.choice((1, 2, 4, 16, 64, 256)))


def repeat_slice(chance, image):
    start, end = _slice(chance, image)
    return image[:end] + image[start:end] * chance.choice((1, 2, 50)) + image[end:]


def remove_slice(chance, image):
    start, end = _slice(chance, image)
    return image[:start] + image[end:]


def splice(chance, image):
    """The head of one file, and the tail of another."""
    other = chance.choice(seeds())[1]
    return truncate(chance, image) + other[chance.randrange(len(other)) :]


def append(chance, image):
    return image + chance.choice((chance.randbytes(40), chance.choice(seeds())[1], b"\0" * 4000))


_BLIND = (
    flip_bits, flip_bits, flip_bits, set_edge, set_edge, truncate,
    repeat_slice, remove_slice, splice, append,
)  # fmt: skip


def _shuffle(chance, parts, alter):
    """Removes, repeats, moves or alters one part of a list."""
    parts = list(parts)
    where = chance.randrange(len(parts))
    act = chance.choice(("remove", "repeat", "move", "alter", "alter", "alter"))
    if act == "alter":
        parts[where] = alter(parts[where])
        return parts
    part = parts.pop(where)
    if act != "remove":
        parts.insert(chance.randrange(len(parts) + 1), part)
    if act == "repeat":
        parts[where:where] = [part] * chance.choice((1, 2, 200))
    return parts


def mutate_png(chance, image):
    """Works on chunks; their checksums are right again afterwards."""
    chunks, where = [], len(PNG_SIGNATURE)
    while where + 12 <= len(image):
        (length,) = struct.unpack_from(">I", image, where)
        chunks.append((image[where + 4 : where + 8], image[where + 8 : where + 8 + length]))
        where += 12 + length
    if chance.random() < 0.2:
        kind = chance.choice(PNG_KINDS)
        chunks.insert(chance.randrange(len(chunks) + 1), (kind, chance.randbytes(26)))
    chunks = _shuffle(chance, chunks, lambda chunk: _alter_chunk(chance, chunk))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _alter_chunk(chance, chunk):
    kind, body = chunk
    if kind == b"IHDR":
        width, height, *rest = struct.unpack(">IIBBBBB", body)
        rest[chance.randrange(5)] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16))
        width, height = (side if chance.random() < 0.7 else chance.choice((0, 1, 25, 5000, 2**31))
                         for side in (width, height))  # fmt: skip
        return kind, struct.pack(">IIBBBBB", width, height, *rest)
    if kind in {b"IDAT", b"zTXt", b"fdAT"} and chance.random() < 0.5:
        # Mutated behind the compression, where blind mutations do not reach.
        return kind, zlib.compress(chance.choice(_BLIND)(chance, zlib.decompress(body)))
    return kind, chance.choice(_BLIND)(chance, body)


def mutate_jpeg(chance, image):
    """Works on segments; their lengths are right again afterwards."""
    segments, where = [], 2
    while image[where + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", image, where + 2)
        segments.append((image[where + 1], image[where + 4 : where + 2 + length]))
        where += 2 + length
    segments = _shuffle(chance, segments, lambda segment: _alter_segment(chance, segment))
    scans = image[where:]
    if chance.random() < 0.3:
        scans = chance.choice(_BLIND)(chance, scans)
    elif chance.random() < 0.1:
        scans = scans.removesuffix(b"\xff\xd9") * chance.choice((2, 20, 400))
    return b"\xff\xd8" + b"".join(
        b"\xff" + bytes([kind]) + struct.pack(">H", min(0xFFFF, len(body) + 2)) + body
        for kind, body in segments
    ) + scans  # fmt: skip


def _alter_segment(chance, segment):
    kind, body = segment
    if 0xC0 <= kind <= 0xCF and kind not in {0xC4, 0xC8, 0xCC}:
        if chance.random() < 0.5:
            return chance.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB)), body
        sides = struct.pack(">HH", *(chance.choice((0, 1, 24, 41, 4000, 65535)) for _ in "hw"))
        return kind, body[:1] + sides + body[5:]
    if chance.random() < 0.1:
        return chance.choice((0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE)), body
    return kind, chance.choice(_BLIND)(chance, body)


def mutate_webp(chance, image):
    """Works on RIFF chunks; all sizes are right again afterwards."""
    chunks, where = [], 12
    while where + 8 <= len(image):
        (length,) = struct.unpack_from("<I", image, where + 4)
        chunks.append((image[where : where + 4], image[where + 8 : where + 8 + length]))
        where += 8 + length + length % 2
    if chance.random() < 0.2:
        kind = chance.choice((b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"EXIF", b"XMP ", b"ICCP"))
        chunks.insert(chance.randrange(len(chunks) + 1), (kind, chance.randbytes(24)))
    chunks = _shuffle(
        chance, chunks, lambda chunk: (chunk[0], chance.choice(_BLIND)(chance, chunk[1]))
    )
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mutate_gif(chance, image):
    """Works on blocks: extensions and frames."""
    colours = 3 << (image[10] & 7) + 1 if image[10] & 0x80 else 0
    head, where = bytearray(image[: 13 + colours]), 13 + colours
    blocks = []
    while where < len(image) and image[where] != 0x3B:
        start, flags = where, image[where + 9]
        if image[where] == 0x2C:
            where += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        else:
            where += 2
        while where < len(image) and image[where]:
            where += 1 + image[where]
        where += 1
        blocks.append(image[start:where])
    if chance.random() < 0.2:
        kind = chance.choice((b"\xf9\4", b"\xfe\4", b"\xff\4", b"\x01\4"))
        block = b"!" + kind + chance.randbytes(4) + b"\0"
        blocks.insert(chance.randrange(len(blocks) + 1), block)
    if chance.random() < 0.2:
        head[chance.randrange(6, 13)] = chance.randrange(256)
    blocks = _shuffle(chance, blocks, lambda block: chance.choice(_BLIND)(chance, block))
    return bytes(head) + b"".join(blocks) + b";"


def mutate_boxes(chance, image, depth=0):
    """Works on the boxes of an AVIF or HEIC, and on those within; all sizes are right again."""
    boxes, where = [], 0
    while where + 8 <= len(image):
        (size,) = struct.unpack_from(">I", image, where)
        size = max(8, size)
        boxes.append((image[where + 4 : where + 8], image[where + 8 : where + size]))
        where += size
    if chance.random() < 0.1:
        kind = chance.choice(
            (b"ispe", b"irot", b"clap", b"auxC", b"colr", b"pixi", b"av1C", b"hvcC")
        )
        boxes.insert(chance.randrange(len(boxes) + 1), (kind, chance.randbytes(12)))
    boxes = _shuffle(chance, boxes, lambda box: (box[0], _alter_box(chance, *box, depth)))
    return b"".join(struct.pack(">I", 8 + len(body)) + kind + body for kind, body in boxes)


def _alter_box(chance, kind, body, depth):
    prefix = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0}.get(kind)
    if prefix is None or depth > 3 or len(body) < 16:
        return chance.choice(_BLIND)(chance, body)
    return body[:prefix] + mutate_boxes(chance, body[prefix:], depth + 1)


_BY_FORMAT = {
    PNG_SIGNATURE: mutate_png,
    b"\xff\xd8": mutate_jpeg,
    b"RIFF": mutate_webp,
    b"GIF8": mutate_gif,
    b"\0\0\0": mutate_boxes,
}
