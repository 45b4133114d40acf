"""Bodies that are small to send and meant to be dear to read, or to be taken for something else."""

import base64
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from tests.fuzz.mutations import PNG_SIGNATURE
from tests.service.pictures import animated, encode, heic, hundred_megapixel_png, picture, png
from tests.service.profiles import ADOBE_RGB, rgb_profile

MEBIBYTE = 1 << 20
DECODED = "decoded"
RAW, JSON, FORM = "image/png", "application/json", "multipart/form-data; boundary=fence"


def bombs():
    """Name, content type, body, and the outcomes that are right: a refusal's code, or `decoded`."""
    files = (*_pngs(), *_jpegs(), *_webps(), *_gifs(), *_avifs(), *_heics(), *_other_formats())
    for name, image, *outcomes in files:
        yield name, RAW, image, outcomes
    for name, text, *outcomes in _jsons():
        yield name, JSON, text.encode("utf-8", "surrogatepass"), outcomes
    for name, body, *outcomes in _forms():
        yield name, FORM, body, outcomes


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(*chunks, width=8, height=8, depth=8, colour=0, data=None):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 9 * 8) if data is None else data
    all_chunks = ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(_chunk(*chunk) for chunk in all_chunks)


def _zeros(mebibytes):
    compressor = zlib.compressobj(9)
    parts = [compressor.compress(bytes(MEBIBYTE)) for _ in range(mebibytes)]
    return b"".join(parts) + compressor.flush()


def _pngs():
    text, small = _zeros(200), _zeros(1)[:-8]
    yield "100 megapixels", hundred_megapixel_png(), "image_too_large"
    yield "3600 megapixels", _png(width=60_000, height=60_000), "image_too_large"
    yield (
        "most pixels that a header holds",
        _png(width=2**31 - 1, height=2**31 - 1),
        "image_too_large",
    )
    yield "a line of two thousand million", _png(width=2**31 - 1, height=1), "image_too_large"
    yield "no width", _png(width=0), "invalid_image"
    yield "no height", _png(height=0), "invalid_image"
    yield "zTXt bomb", _png((b"zTXt", b"k\0\0" + text)), "invalid_image"
    yield "iTXt bomb", _png((b"iTXt", b"k\0\1\0\0\0" + text)), "invalid_image"
    yield "iCCP bomb", _png((b"iCCP", b"k\0\0" + text)), "invalid_image"
    yield (
        "many zTXt",
        _png(*[(b"zTXt", b"k%d\0\0" % n + small) for n in range(500)]),
        "invalid_image",
        DECODED,
    )
    yield "more pixels than its size", _png(data=_zeros(200)), DECODED, "invalid_image"
    yield "fewer pixels than its size", _png(width=4000, height=4000), "invalid_image"
    yield "200,000 empty chunks", _png(*[(b"tESt", b"")] * 200_000), "image_too_large"
    yield "exif of 16 MiB", _png((b"eXIf", b"II*\0" + bytes(16 * MEBIBYTE))), DECODED
    yield "animated png", animated("PNG"), "animated_image"
    frames = _png((b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    yield "two thousand million frames", frames, "animated_image", "invalid_image"
    yield "wrong checksum", _png()[:-20] + b"\0" * 4 + _png()[-16:], "invalid_image"
    yield "palette without a palette", _png(colour=3), "invalid_image"
    yield "no such colour type", _png(colour=5), "invalid_image"
    yield "no such depth", _png(depth=7), "invalid_image"


def _jpegs():
    plain = encode(picture(64, 64), "JPEG")
    start = plain.index(b"\xff\xc0")
    huge = plain[: start + 5] + b"\xff\xff\xff\xff" + plain[start + 9 :]
    yield "65,535 x 65,535 jpeg", huge, "image_too_large"
    yield "no height in jpeg", plain[: start + 5] + b"\0\0" + plain[start + 7 :], "invalid_image"
    yield "12 bits", plain[: start + 4] + b"\x0c" + plain[start + 5 :], "invalid_image"
    for kind, what in ((0xC3, "lossless"), (0xC9, "arithmetic"), (0xCA, "progressive arithmetic")):
        altered = plain[: start + 1] + bytes([kind]) + plain[start + 2 :]
        yield f"{what} jpeg", altered, "invalid_image", DECODED
    yield "cmyk", _cmyk(), DECODED
    progressive = encode(picture(2000, 2000), "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    again = progressive[scan:].removesuffix(b"\xff\xd9") * 2000
    yield "2,000 scans", progressive[:scan] + again + b"\xff\xd9", "image_too_large"
    hidden = progressive[:2] + b"\xff\xe1" + struct.pack(">H", 2 + 60_000)
    yield "scans in metadata", hidden + b"\xff\xda" * 30_000 + progressive[2:], DECODED
    yield (
        "2,000,000 restarts",
        plain[:-2] + b"\xff\xd0" * 2_000_000 + plain[-2:],
        DECODED,
        "invalid_image",
    )
    yield (
        "restart after each block",
        encode(picture(1000, 1000), "JPEG", restart_marker_blocks=1),
        DECODED,
    )
    yield (
        "16 MiB of filling",
        plain[:-2] + b"\xff" * 16 * MEBIBYTE + plain[-2:],
        DECODED,
        "invalid_image",
    )
    yield (
        "16 MiB of filling in front",
        plain[:2] + b"\xff" * 16 * MEBIBYTE + plain[2:],
        "image_too_large",
    )
    yield (
        "16 MiB of nothing in front",
        plain[:20] + bytes(16 * MEBIBYTE) + plain[20:],
        "image_too_large",
    )
    yield (
        "4,000,000 empty segments",
        plain[:2] + b"\xff\xe5\0\2" * 4_000_000 + plain[2:],
        "image_too_large",
    )
    yield "comments", plain[:2] + (b"\xff\xfe\xff\xff" + b"c" * 65_533) * 200 + plain[2:], DECODED
    for what, exif in _exif_bombs():
        marker = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
        yield f"exif: {what}", plain[:2] + marker + plain[2:], DECODED
    yield (
        "script in a comment",
        encode(picture(), "JPEG", comment=b"<?php system($_GET[0]);"),
        DECODED,
    )
    yield "archive behind the jpeg", plain + b"PK\x03\x04" + bytes(1000), DECODED


def _cmyk():
    buffer = io.BytesIO()
    Image.fromarray(picture()).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


def _exif_bombs():
    def entry(tag, kind, count, value):
        return struct.pack("<HHII", tag, kind, count, value)

    def exif(*entries, num_entries=None, following=0):
        count = len(entries) if num_entries is None else num_entries
        body = struct.pack("<H", count) + b"".join(entries) + struct.pack("<I", following)
        return b"Exif\0\0II*\0" + struct.pack("<I", 8) + body

    yield "more entries than bytes", exif(num_entries=65_535)
    yield "a value of 4 GiB", exif(entry(0x010E, 2, 2**32 - 1, 8))
    yield "a value beyond the end", exif(entry(0x010E, 2, 100, 2**31))
    yield "it follows itself", exif(entry(0x0112, 3, 1, 1), following=8)
    yield "its part is itself", exif(entry(0x8769, 4, 1, 8), entry(0x8825, 4, 1, 8))
    yield "orientation 9", exif(entry(0x0112, 3, 1, 9))
    yield "orientation as text", exif(entry(0x0112, 2, 4, 0x61616161))
    yield "many orientations", exif(entry(0x0112, 3, 2, 0x00080003))
    yield "no such type", exif(entry(0x0112, 99, 1, 6))
    yield "5,000 entries", exif(*[entry(0x0112, 3, 1, 3)] * 5000)
    yield "nothing", b"Exif\0\0"
    yield "noise", b"Exif\0\0" + bytes(range(256)) * 200


def _webps():
    def extended(width, height, flags=0):
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + sides
        return b"RIFF" + struct.pack("<I", len(body)) + body

    yield "webp of 16,384 x 16,384", extended(16_384, 16_384), "image_too_large"
    yield "webp of 2^24 x 2^24", extended(2**24, 2**24), "image_too_large"
    yield "webp without a frame", extended(10, 10), "invalid_image"
    yield "webp with animation and no frame", extended(10, 10, 2), "invalid_image"
    yield "animated webp", animated("WEBP"), "animated_image"
    lossless = encode(picture(), "WEBP", lossless=True)
    sides = (16_383 | 16_383 << 14).to_bytes(4, "little")
    yield (
        "lossless webp of 16,384 x 16,384",
        lossless[:21] + sides + lossless[25:],
        "image_too_large",
    )


def _gifs():
    plain = encode(picture(), "GIF")
    header = plain[:6] + b"\xff" * 4 + plain[10:]
    yield "gif of 65,535 x 65,535", header, "image_too_large"
    frame = plain.rindex(b",\0\0\0\0\x40\0\x30\0")
    wide = plain[: frame + 5] + b"\xff" * 4 + plain[frame + 9 :]
    yield "gif whose frame is larger than it", wide, "image_too_large"
    aside = plain[: frame + 1] + b"\xff" * 4 + plain[frame + 5 :]
    yield "gif whose frame stands far aside", aside, "image_too_large"
    disposed = plain[:frame] + b"!\xf9\4\x0c\0\0\0\0" + wide[frame:]
    yield "gif that clears a huge frame", disposed, "image_too_large"
    comments = b"!\xfe" + (b"\xff" + b"c" * 255) * 60_000 + b"\0"
    yield "15 MiB of comments in a gif", plain[:frame] + comments + plain[frame:], DECODED
    short = b"!\xfe" + b"\1c" * 4_000_000 + b"\0"
    yield "a comment in 4,000,000 blocks", plain[:frame] + short + plain[frame:], "image_too_large"
    many = plain[:frame] + b"!\xfe\0" * 2_000_000 + plain[frame:]
    yield "2,000,000 comments", many, "image_too_large"
    yield "filling in a gif", plain[:frame] + bytes(4_000_000) + plain[frame:], "image_too_large"
    frames = plain[:-1] + plain[frame:-1] * 3000 + b";"
    yield "3,000 frames", frames, "animated_image"
    yield "gif without a frame", plain[:frame] + b";", "invalid_image"
    yield "gif without colours", plain[:10] + b"\0" + plain[11:13] + plain[frame:], DECODED
    start = frame + 10
    for bits in (0, 1, 12, 13, 255):
        altered = plain[:start] + bytes([bits]) + plain[start + 1 :]
        yield f"codes of {bits} bits", altered, DECODED, "invalid_image"
    # Whatever the codes would make, there is room for the frame alone.
    endless = plain[: start + 1] + (b"\xff" + bytes(255)) * 60_000 + b"\0;"
    yield "codes for more than the frame", endless, DECODED, "invalid_image"


def _avifs():
    plain = encode(picture(), "AVIF")
    yield from _boxed("avif", plain)
    yield "animated avif", animated("AVIF"), "animated_image"


def _heics():
    yield from _boxed("heic", heic(picture()))
    larger = _with_extents(heic(np.zeros((4000, 4000, 3), np.uint8), quality=10), 8, 8)
    yield "heic larger than it says", larger, "invalid_image"


def _boxed(name, plain):
    yield f"{name} of 65,535 x 65,535", _with_extents(plain, 65_535, 65_535), "image_too_large"
    most = 2**32 - 1
    yield f"{name} of all pixels there are", _with_extents(plain, most, most), "image_too_large"
    yield f"{name} without pixels", _with_extents(plain, 0, 0), "invalid_image"
    yield f"{name}, a head alone", plain[:64], "invalid_image"
    boxes = b"\0\0\0\x08free" * 2_000_000
    yield f"{name} of 2,000,000 boxes", plain + boxes, "image_too_large"
    # Every item is looked up among all others.
    where = plain.index(b"iinf")
    item = b"\0\0\0\x15infe\2\0\0\0\0\1\0\0hvc1\0"
    body = b"\1\0\0\0" + struct.pack(">I", 400_000) + item * 400_000
    size = int.from_bytes(plain[where - 4 : where], "big")
    items = struct.pack(">I", 8 + len(body)) + b"iinf" + body
    meta = plain.index(b"meta") - 4
    length = int.from_bytes(plain[meta : meta + 4], "big") + len(items) - size
    grown = plain[:meta] + struct.pack(">I", length) + plain[meta + 4 : where - 4]
    yield f"{name} of 400,000 items", grown + items + plain[where - 4 + size :], "image_too_large"
    loop = plain[:meta] + b"\0\0\0\0" + plain[meta + 4 :]
    yield f"{name} that ends nowhere", loop, DECODED, "invalid_image"


def _with_extents(image, width, height):
    """The same file; all that says how large its pictures are says something else."""
    where = image.find(b"ispe")
    while where >= 0:
        image = image[: where + 8] + struct.pack(">II", width, height) + image[where + 16 :]
        where = image.find(b"ispe", where + 4)
    return image


def _other_formats():
    image = Image.fromarray(picture())
    for name in ("TIFF", "BMP", "ICO", "PPM", "TGA", "PCX", "JPEG2000", "PDF", "EPS", "DDS"):
        buffer = io.BytesIO()
        image.save(buffer, name)
        yield f"{name} under another name", buffer.getvalue(), "unsupported_image"
    yield (
        "psd",
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(12),
        "unsupported_image",
    )
    yield (
        "svg",
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        "unsupported_image",
    )
    yield (
        "gif before a jpeg",
        b"GIF89a" + encode(picture(), "JPEG"),
        "invalid_image",
        "image_too_large",
    )
    yield "pdf around a jpeg", b"%PDF-1.4\n" + encode(picture(), "JPEG"), "unsupported_image"
    yield "gzip", b"\x1f\x8b\x08\0" + bytes(100), "unsupported_image"
    yield "riff, but sound", b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), "unsupported_image"
    yield "page before a png", b"<html>" + png(), "unsupported_image"
    yield "page behind a png", png() + b"<html><script>alert(1)</script>", DECODED


def _jsons():
    text = base64.b64encode(png()).decode()
    yield "100,000 brackets", "[" * 100_000, "invalid_body"
    yield (
        "deep beside the image",
        json.dumps({"image": text})[:-1] + ', "a": ' + "[" * 900 + "]" * 900 + "}",
        DECODED,
        "invalid_body",
    )
    yield (
        "very deep beside the image",
        json.dumps({"image": text})[:-1] + ', "a": ' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        "invalid_body",
    )
    yield "a number of a million digits", '{"a": ' + "9" * 1_000_000 + "}", "invalid_body"
    yield (
        "a number of 4,000 digits",
        f'{{"image": "{text}", "a": {"9" * 4000}}}',
        DECODED,
        "invalid_body",
    )
    yield (
        "an exponent beyond all",
        f'{{"image": "{text}", "temperature": 1e999999999}}',
        DECODED,
        "invalid_body",
    )
    yield "not a number", f'{{"image": "{text}", "temperature": NaN}}', DECODED, "invalid_body"
    yield (
        "a field of 20 MiB",
        json.dumps({"image": text, "question": "q" * (20 * MEBIBYTE)}),
        "invalid_body",
    )
    yield (
        "100,000 fields",
        json.dumps({"image": text} | {f"f{n}": 0 for n in range(100_000)}),
        "invalid_body",
    )
    yield (
        "500,000 empty lists",
        '{"image": "' + text + '", "a": [' + ",".join(["[]"] * 500_000) + "]}",
        "invalid_body",
    )
    yield (
        "half a character",
        '{"image": "' + text + '", "question": "\\ud800"}',
        DECODED,
        "invalid_body",
    )
    yield "half a character, raw", '{"image": "\ud800"}', "invalid_body", "invalid_field"
    yield "no base64", json.dumps({"image": "%%%%"}), "invalid_field"
    yield (
        "base64 with garbage inside",
        json.dumps({"image": text[:40] + "!\0~" + text[40:]}),
        "invalid_field",
    )
    yield (
        "base64 without its padding",
        json.dumps({"image": text.rstrip("=")}),
        DECODED,
    )
    yield "16 MiB of padding", json.dumps({"image": "=" * (16 * MEBIBYTE)}), "invalid_field"
    yield "image is a list", json.dumps({"image": [text]}), "invalid_field"
    yield "url", json.dumps({"image": "http://169.254.169.254/latest/meta-data"}), "remote_image"
    yield "file url", json.dumps({"image": "file:///etc/passwd"}), "remote_image"
    yield "nothing", "", "invalid_body"
    yield "a nul", "\0", "invalid_body"


def _forms():
    def part(name, value, more=""):
        disposition = f"Content-Disposition: form-data; name={name}{more}"
        return f"--fence\r\n{disposition}\r\n\r\n".encode() + value + b"\r\n"

    image = part("file", png(), '; filename="x"')
    end = b"--fence--\r\n"
    yield (
        "20,000 fields",
        b"".join(part(f"f{n}", b"") for n in range(20_000)) + image + end,
        "invalid_body",
    )
    yield "5,000 files", image * 5_000 + end, "invalid_body"
    yield "a header of 1 MiB", part("a" * MEBIBYTE, b"") + image + end, "invalid_body"
    yield (
        "10,000 headers",
        image.replace(b"\r\n\r\n", b"\r\nX: y" * 10_000 + b"\r\n\r\n", 1) + end,
        "invalid_body",
        DECODED,
    )
    yield "a field that is no text", part("a", b"\xff\xfe") + image + end, "invalid_body"
    yield "no end", image, "invalid_body", "missing_field", DECODED
    yield (
        "no such encoding",
        image.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: rot13\r\n\r\n", 1) + end,
        "invalid_body",
        DECODED,
        "invalid_image",
    )
    yield "fences alone", b"--fence\r\n" * 200_000, "invalid_body", "missing_field"
    yield "no fence", bytes(MEBIBYTE), "invalid_body", "missing_field"


def dearest_pictures():
    """Pictures at the limits that are taken: what decoding may cost at most."""
    side = 5000
    rows = b"".join([b"\0" + bytes(8 * side)] * 16)
    compressor = zlib.compressobj(1)
    data = b"".join(compressor.compress(rows) for _ in range(-(-side // 16))) + compressor.flush()
    yield (
        "25 megapixels, 16 bits, alpha",
        _png(width=side, height=side, depth=16, colour=6, data=data),
    )
    yield (
        "25 megapixels, a jpeg that lacks its end",
        encode(picture(side, side), "JPEG").removesuffix(b"\xff\xd9"),
    )
    profile = rgb_profile(ADOBE_RGB)
    yield "25 megapixels, Adobe RGB", encode(picture(side, side), "JPEG", icc_profile=profile)
    yield "25 megapixels, GIF", encode(picture(side, side)[..., 0], "GIF")
    # Its pixels are made before anybody sees that there are too many; then it is scaled.
    huge = encode(np.zeros((9000, 9000, 3), np.uint8), "AVIF", speed=10)
    yield "81 megapixels, AVIF that says 64", _with_extents(huge, 8, 8)
    yield "25 megapixels, AVIF", encode(picture(side, side), "AVIF", speed=10)
    yield "25 megapixels, HEIC", heic(picture(side, side - 64), quality=10)
    grey = Image.fromarray(np.zeros((side, side), np.uint16))
    buffer = io.BytesIO()
    grey.save(buffer, "PNG", compress_level=1)
    yield "25 megapixels, 16 bits, grey", buffer.getvalue()
    for image_format, options in (("JPEG", {"progressive": True}), ("WEBP", {"method": 0})):
        yield f"25 megapixels, {image_format}", encode(picture(side, side), image_format, **options)
