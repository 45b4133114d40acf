"""Pictures of every kind that phones, browsers, scanners and screenshot tools write: made by code.

Each comes with what has to become of it: pixels, or the code of a refusal. The pixels are reckoned
from the picture that was written, by definitions and numpy, not by what decodes it.
"""

import base64
import io
import struct
import zlib

import numpy as np
import pillow_heif
from PIL import Image

from tests.fuzz.mutations import PNG_SIGNATURE
from tests.service.pictures import animated, encode, heic, picture
from tests.service.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    convert,
    encode_srgb,
    grey_profile,
    rgb_profile,
)

SIDES = (48, 64)
PLAIN = picture(*SIDES)
GREY = PLAIN[..., 1]
# Where no colour is beyond what sRGB can show: there, small errors would become large ones.
MUTED = 96 + PLAIN // 4
ALPHA = np.tile(np.linspace(0, 255, SIDES[1]).astype(np.uint8), (SIDES[0], 1))
# Lossy codecs err, chroma is stored at half the resolution, and profiles are rounded to bytes.
EXACT, ROUNDED, LOSSY, HALVED = 0, 2, 8, 16
TURNS = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: np.swapaxes(p, 0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.swapaxes(np.rot90(p, 2), 0, 1),
    8: np.rot90,
}
# 16 x 8 pixels, red rising from 0 to 65535 by columns, green falling, blue at 30000.
AVIF_10_BITS = base64.b64decode(
    "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAANZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAA"
    "AAAAAAAAAAAA5waXRtAAAAAAABAAAAImlsb2MAAAAAREAAAQABAAAAAAD6AAEAAAAAAAAAfwAAACNpaW5mAAAAAAAB"
    "AAAAFWluZmUCAAAAAAEAAGF2MDEAAAAAVmlwcnAAAAA4aXBjbwAAAAxhdjFDgSBCAAAAABRpc3BlAAAAAAAAABAAAA"
    "AIAAAAEHBpeGkAAAAAAwoKCgAAABZpcG1hAAAAAAAAAAEAAQOBAgMAAACHbWRhdBIACgg4DL+xgIaDSDJxEAAA3tlr"
    "M54CsfonFcSKz1lulkYngj7xm8kDL6/sN0Ac2Ui1nYvLteLUtXDJx0kv9aLgZsJS6V8MEYSJjuDq10rxl14LlyLeNW"
    "FONtHS49NW0pI8tq6f8fortuCVb4hs1KEHmwZRYgQbSqG2u/CejsA="
)
AVIF_12_BITS = base64.b64decode(
    "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAANZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAA"
    "AAAAAAAAAAAA5waXRtAAAAAAABAAAAImlsb2MAAAAAREAAAQABAAAAAAD6AAEAAAAAAAAAlQAAACNpaW5mAAAAAAAB"
    "AAAAFWluZmUCAAAAAAEAAGF2MDEAAAAAVmlwcnAAAAA4aXBjbwAAAAxhdjFDgUBiAAAAABRpc3BlAAAAAAAAABAAAA"
    "AIAAAAEHBpeGkAAAAAAwwMDAAAABZpcG1hAAAAAAAAAAEAAQOBAgMAAACdbWRhdBIACghYDL+xoCGg0TKGARAAAN7Z"
    "a2k6CqCyQJho1GzyRuLxnmQ1TTonNm+8teL7JweEwmM27d1qRpuo2exYPfXyF30gmVIOFYJ/1thK+CP4dkJEvVXhuB"
    "ysHiWU90cWdR6qfEvLZfEsoDg7O5GbR5IztrjuWVwUetZI14jdR+SoD7kqeZlLRi69dPz+UEZbYKN6iYLA"
)


def real_pictures():
    """Name, file, what becomes of it, and by how much a pixel may differ."""
    for rows in (_jpegs, _coloured_jpegs, _cameras, _pngs, _deep_pngs, _webps, _gifs, _avifs):
        yield from rows()
    yield from _heics()
    yield from _refused()


def on_white(pixels, alpha):
    share = alpha[..., None] / 255
    return np.round(pixels * share + 255 * (1 - share)).astype(np.uint8)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def save(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _jpegs():
    image = Image.fromarray(PLAIN)
    for name, tolerance, options in (
        ("baseline 4:2:0", HALVED, {"quality": 95}),
        ("4:2:2", HALVED, {"quality": 95, "subsampling": 1}),
        ("4:4:4", LOSSY, {"quality": 95, "subsampling": 0}),
        ("progressive", HALVED, {"quality": 95, "progressive": True}),
        ("optimised", HALVED, {"quality": 95, "optimize": True}),
        ("with restarts", HALVED, {"quality": 95, "restart_marker_rows": 1}),
        ("with a comment and dpi", HALVED, {"quality": 95, "comment": b"c", "dpi": (300, 300)}),
        ("RGB without YCbCr", LOSSY, {"quality": 95, "keep_rgb": True}),
    ):
        yield f"jpeg {name}", save(image, "JPEG", **options), PLAIN, tolerance
    grey = save(Image.fromarray(GREY), "JPEG", quality=95)
    yield "jpeg grey", grey, np.dstack([GREY] * 3), LOSSY
    for orientation, turn in TURNS.items():
        file = save(image, "JPEG", quality=95, exif=oriented(orientation))
        yield f"jpeg, orientation {orientation}", file, turn(PLAIN), HALVED
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    yield "jpeg, orientation in XMP alone", save(image, "JPEG", quality=95, xmp=xmp), PLAIN, HALVED


def _coloured_jpegs():
    image, options = Image.fromarray(PLAIN), {"quality": 98, "subsampling": 0}
    for name, space in (("sRGB", SRGB), ("Display P3", DISPLAY_P3), ("Adobe RGB", ADOBE_RGB)):
        file = encode(MUTED, "JPEG", icc_profile=rgb_profile(space), **options)
        yield f"jpeg in {name}", file, convert(MUTED, space), LOSSY
    file = save(Image.fromarray(GREY), "JPEG", icc_profile=grey_profile(1.0), **options)
    light = np.round(255 * encode_srgb(GREY / 255)).astype(np.uint8)
    yield "jpeg, grey and linear", file, np.dstack([light] * 3), HALVED
    broken = rgb_profile(ADOBE_RGB)[:200]
    yield "jpeg, broken profile", save(image, "JPEG", icc_profile=broken, **options), PLAIN, LOSSY
    other = grey_profile(1.0)
    yield "jpeg, grey's profile", save(image, "JPEG", icc_profile=other, **options), PLAIN, LOSSY
    ink = Image.fromarray(255 - np.dstack([PLAIN, np.full(SIDES, 255, np.uint8)]), "CMYK")
    cmyk = save(ink, "JPEG", **options)
    yield "jpeg cmyk", cmyk, PLAIN, LOSSY
    # Adobe's other way: inks as luma and chroma, told by the last byte of its marker.
    luma = np.asarray(Image.fromarray(255 - PLAIN).convert("YCbCr"))
    ycck = Image.fromarray(255 - np.dstack([luma, np.full(SIDES, 255, np.uint8)]), "CMYK")
    file = bytearray(save(ycck, "JPEG", **options))
    transform = file.index(b"Adobe") + 11
    assert file[transform] == 0
    file[transform] = 2
    yield "jpeg ycck", bytes(file), PLAIN, LOSSY
    black = Image.new("CMYK", SIDES[::-1], (0, 0, 0, 255))
    file = save(black, "JPEG", icc_profile=cmyk_profile(), **options)
    yield "jpeg cmyk by its profile", file, np.zeros_like(PLAIN), LOSSY


def _cameras():
    first, second = encode(PLAIN, "JPEG", quality=95), encode(picture(24, 32, 7), "JPEG")
    buffer = io.BytesIO()
    pair = [Image.fromarray(PLAIN), Image.fromarray(picture(*SIDES, seed=7))]
    pair[0].save(buffer, "MPO", save_all=True, append_images=pair[1:], quality=95)
    mpo = buffer.getvalue()
    assert Image.open(io.BytesIO(mpo)).format == "MPO"
    yield "mpo of two pictures", mpo, PLAIN, HALVED
    yield "mpo cut off behind the first", mpo[: mpo.index(b"\xff\xd9") + 2], PLAIN, HALVED
    index = mpo.index(b"MPF\0")
    broken = mpo[: index + 8] + b"\xff" * 30 + mpo[index + 38 :]
    yield "mpo with a damaged index", broken, PLAIN, HALVED
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" hdrgm:Version="1.0"/>'
    primary = save(Image.fromarray(PLAIN), "JPEG", quality=95, xmp=xmp)
    yield "ultra hdr", primary + second, PLAIN, HALVED
    yield "jpeg and trailing data", first + b"SEFH" + bytes(500), PLAIN, HALVED
    thumbnail = oriented(1)
    thumbnail.get_ifd(0x8769)[0x927C] = second  # makers keep previews in their notes
    yield "jpeg with a preview", save(pair[0], "JPEG", quality=95, exif=thumbnail), PLAIN, HALVED
    yield "jpeg without its end marker", first.removesuffix(b"\xff\xd9"), PLAIN, HALVED
    yield "jpeg without its last eighth", first[: -len(first) // 8], "invalid_image", EXACT


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(colour, depth, rows, *chunks, interlaced=False):
    """A PNG of rows that are packed already."""
    head = struct.pack(">IIBBBBB", SIDES[1], SIDES[0], depth, colour, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return PNG_SIGNATURE + b"".join(
        _chunk(*chunk) for chunk in ((b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b""))
    )


def _rows(samples):
    return [row.tobytes() for row in samples]


def _pngs():
    grey3 = np.dstack([GREY] * 3)
    yield "png rgb", _png(2, 8, _rows(PLAIN)), PLAIN, EXACT
    yield "png grey", _png(0, 8, _rows(GREY)), grey3, EXACT
    rgba = _png(6, 8, _rows(np.dstack([PLAIN, ALPHA])))
    yield "png rgba", rgba, on_white(PLAIN, ALPHA), 1
    yield (
        "png grey and alpha",
        _png(4, 8, _rows(np.dstack([GREY, ALPHA]))),
        on_white(grey3, ALPHA),
        1,
    )
    for depth in (1, 2, 4):
        most = 2**depth - 1
        levels = GREY >> (8 - depth)
        bits = np.unpackbits(levels[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(SIDES[0], -1), axis=-1)
        shown = np.dstack([levels * (255 // most)] * 3).astype(np.uint8)
        yield f"png grey of {depth} bits", _png(0, depth, _rows(packed)), shown, EXACT
        palette = picture(1, most + 1, seed=depth)[0]
        chunk = (b"PLTE", palette.tobytes())
        yield (
            f"png palette of {depth} bits",
            _png(3, depth, _rows(packed), chunk),
            palette[levels],
            0,
        )
    palette, holes = picture(1, 256, seed=9)[0], bytes([0, 128, 255] * 20)
    chunks = ((b"PLTE", palette.tobytes()), (b"tRNS", holes))
    opacity = np.array([*holes, *[255] * (256 - len(holes))], np.uint8)[GREY]
    file = _png(3, 8, _rows(GREY), *chunks)
    yield "png palette and transparency", file, on_white(palette[GREY], opacity), 1
    key = (b"tRNS", struct.pack(">HHH", *PLAIN[0, 0].tolist()))
    keyed = np.where((PLAIN[0, 0] == PLAIN).all(-1), 0, 255)
    yield (
        "png rgb and one clear colour",
        _png(2, 8, _rows(PLAIN), key),
        on_white(PLAIN, keyed),
        EXACT,
    )
    yield "png interlaced", _interlaced(PLAIN), PLAIN, EXACT
    image = Image.fromarray(PLAIN)
    yield "png, orientation 6", save(image, "PNG", exif=oriented(6)), TURNS[6](PLAIN), EXACT
    yield "png with pHYs", save(image, "PNG", dpi=(144, 144)), PLAIN, EXACT
    p3 = save(image, "PNG", icc_profile=rgb_profile(DISPLAY_P3))
    yield "png in Display P3, a screenshot", p3, convert(PLAIN, DISPLAY_P3), ROUNDED
    usual = _png(2, 8, _rows(PLAIN), (b"gAMA", struct.pack(">I", 45_455)))
    yield "png of the usual gAMA", usual, PLAIN, EXACT
    linear = _png(2, 8, _rows(PLAIN), (b"gAMA", struct.pack(">I", 100_000)))
    shown = np.round(255 * encode_srgb(PLAIN / 255)).astype(np.uint8)
    yield "png of linear gAMA", linear, shown, 1
    named = _png(2, 8, _rows(PLAIN), (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0"))
    yield "png of linear gAMA that says sRGB", named, PLAIN, EXACT
    yield "apng", animated("PNG"), "animated_image", EXACT
    yield "apng of one frame", save(image, "PNG", save_all=True), PLAIN, EXACT


def _interlaced(pixels):
    """Adam7: seven passes, each a smaller picture."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2))  # fmt: skip
    rows = []
    for left, top, across, down in passes:
        rows += _rows(np.ascontiguousarray(pixels[top::down, left::across]))
    return _png(2, 8, rows, interlaced=True)


def _deep_pngs():
    """The high byte of 16 bits is what a screen shows."""
    noise = np.random.default_rng(5).integers(0, 256, (*SIDES, 4), dtype=np.uint16)
    deep = np.dstack([PLAIN, ALPHA]).astype(np.uint16) << 8 | noise
    wide = deep.astype(">u2")
    grey3 = np.dstack([PLAIN[..., 0]] * 3)
    yield "png rgb of 16 bits", _png(2, 16, _rows(wide[..., :3])), PLAIN, EXACT
    yield "png rgba of 16 bits", _png(6, 16, _rows(wide)), on_white(PLAIN, ALPHA), 1
    yield "png grey of 16 bits", _png(0, 16, _rows(wide[..., 0])), grey3, EXACT
    pair = np.ascontiguousarray(wide[..., [0, 3]])
    yield "png grey and alpha of 16 bits", _png(4, 16, _rows(pair)), on_white(grey3, ALPHA), 1
    key = (b"tRNS", struct.pack(">H", deep[0, 0, 0]))
    keyed = on_white(grey3, np.where(deep[..., 0] == deep[0, 0, 0], 0, 255))
    yield "png grey of 16 bits and one clear", _png(0, 16, _rows(wide[..., 0]), key), keyed, EXACT


def _webps():
    image, layer = Image.fromarray(PLAIN), Image.fromarray(np.dstack([PLAIN, ALPHA]))
    yield "webp lossy", save(image, "WEBP", quality=95), PLAIN, HALVED
    yield "webp lossless", save(image, "WEBP", lossless=True), PLAIN, EXACT
    exact = save(layer, "WEBP", lossless=True, exact=True)
    yield "webp lossless and alpha", exact, on_white(PLAIN, ALPHA), 1
    yield "webp lossy and alpha", save(layer, "WEBP", quality=95), on_white(PLAIN, ALPHA), HALVED
    turned = save(image, "WEBP", lossless=True, exif=oriented(8))
    yield "webp, orientation 8", turned, TURNS[8](PLAIN), EXACT
    p3 = save(image, "WEBP", lossless=True, icc_profile=rgb_profile(DISPLAY_P3))
    yield "webp in Display P3", p3, convert(PLAIN, DISPLAY_P3), ROUNDED
    yield "webp animated", animated("WEBP"), "animated_image", EXACT


def _gifs():
    palette = picture(1, 256, seed=3)[0]
    image = Image.fromarray(GREY, "P")
    image.putpalette(palette.tobytes())
    shown = palette[GREY]
    yield "gif", save(image, "GIF", interlace=0), shown, EXACT
    yield "gif interlaced", save(image, "GIF", interlace=1), shown, EXACT
    clear = save(image, "GIF", transparency=int(GREY[0, 0]))
    yield (
        "gif and one clear colour",
        clear,
        on_white(shown, np.where(GREY[0, 0] == GREY, 0, 255)),
        0,
    )
    yield "gif with a comment and a loop", save(image, "GIF", comment=b"c", loop=0), shown, EXACT
    small = save(image.crop((8, 8, 40, 40)), "GIF")
    frame = small.rindex(b",\0\0\0\0\x20\0\x20\0")
    canvas = small[:6] + struct.pack("<HH", *SIDES[::-1]) + small[10:frame]
    ground = np.full_like(PLAIN, 255)
    ground[4:36, 16:48] = shown[8:40, 8:40]
    beside = canvas + b"," + struct.pack("<HH", 16, 4) + small[frame + 5 :]
    yield "gif whose frame is a part of it", beside, ground, EXACT
    yield "gif of two frames", animated("GIF"), "animated_image", EXACT


def _avifs():
    image, layer = Image.fromarray(PLAIN), Image.fromarray(np.dstack([PLAIN, ALPHA]))
    fine = {"quality": 95, "subsampling": "4:4:4"}
    yield "avif 4:2:0", save(image, "AVIF", quality=95), PLAIN, HALVED
    yield "avif 4:4:4", save(image, "AVIF", **fine), PLAIN, LOSSY
    yield "avif and alpha", save(layer, "AVIF", **fine), on_white(PLAIN, ALPHA), HALVED
    red = np.linspace(0, 255, 16)
    deep = np.tile(np.dstack([red, 255 - red, np.full(16, 30_000 / 257)]), (8, 1, 1))
    yield "avif of 10 bits", AVIF_10_BITS, np.round(deep).astype(np.uint8), LOSSY
    yield "avif of 12 bits", AVIF_12_BITS, np.round(deep).astype(np.uint8), LOSSY
    for orientation in (3, 5, 6, 7):
        file = save(image, "AVIF", exif=oriented(orientation), **fine)
        yield f"avif, irot and imir for {orientation}", file, TURNS[orientation](PLAIN), LOSSY
    p3 = encode(MUTED, "AVIF", icc_profile=rgb_profile(DISPLAY_P3), **fine)
    yield "avif in Display P3", p3, convert(MUTED, DISPLAY_P3), LOSSY
    yield "avif of several frames", animated("AVIF"), "animated_image", EXACT


def _heics():
    fine = {"quality": 95, "chroma": 444}
    yield "heic 4:2:0", heic(PLAIN, quality=95), PLAIN, HALVED
    yield "heic 4:4:4", heic(PLAIN, **fine), PLAIN, LOSSY
    layer = np.dstack([PLAIN, ALPHA])
    yield "heic and alpha", heic(layer, **fine), on_white(PLAIN, ALPHA), HALVED
    for orientation in (3, 6):
        # Written as phones do: turned by a property, and the same said again in Exif.
        file = heic(PLAIN, exif=oriented(orientation).tobytes(), **fine)
        yield f"heic, orientation {orientation}", file, TURNS[orientation](PLAIN), LOSSY
    p3 = heic(MUTED, icc_profile=rgb_profile(DISPLAY_P3), **fine)
    yield "heic in Display P3, an iPhone's", p3, convert(MUTED, DISPLAY_P3), LOSSY
    buffer = io.BytesIO()
    deep = (PLAIN.astype(np.uint16) << 8).tobytes()
    pillow_heif.encode("RGB;16", SIDES[::-1], deep, buffer, **fine)
    yield "heic of 10 bits", buffer.getvalue(), PLAIN, LOSSY
    buffer = io.BytesIO()
    album = pillow_heif.from_pillow(Image.fromarray(PLAIN))
    album.add_from_pillow(Image.fromarray(picture(*SIDES, seed=7)))
    album.save(buffer, primary_index=0, **fine)
    yield "heic of two pictures", buffer.getvalue(), PLAIN, LOSSY


def _refused():
    for name in ("TIFF", "BMP", "ICO", "PDF", "JPEG2000"):
        yield name.lower(), encode(PLAIN, name), "unsupported_image", EXACT
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "svg", b"<?xml version='1.0'?>" + svg, "unsupported_image", EXACT
    yield "jpeg xl", b"\xff\x0a" + bytes(50), "unsupported_image", EXACT
