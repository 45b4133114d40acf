"""Images for tests, good and hostile, made in memory."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
from PIL import Image


def picture(height=48, width=64, seed=0):
    """Smooth random pixels, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels, image_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def heic(pixels, **options):
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, **options)
    return buffer.getvalue()


def png(height=48, width=64, seed=0):
    return encode(picture(height, width, seed))


def pixels_of(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def hundred_megapixel_png():
    """A valid PNG of 10,000 x 10,000 black pixels in some 100 kB."""
    side = 10_000
    compressor = zlib.compressobj(9)
    row = b"\0" * (1 + side // 8)
    data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def animated(image_format):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:], duration=50)
    return buffer.getvalue()


def hostile_images():
    """Name, bytes, and the status and code of the refusal."""
    whole_jpeg, whole_webp = encode(picture(200, 200), "JPEG"), encode(picture(200, 200), "WEBP")
    return [
        ("empty", b"", 400, "invalid_image"),
        ("garbage", b"\x00\x01garbage" * 50, 415, "unsupported_image"),
        ("html", b"<!doctype html><img src=x>", 415, "unsupported_image"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_image"),
        ("bmp", encode(picture(), "BMP"), 415, "unsupported_image"),
        ("truncated gif", encode(picture(200, 200), "GIF")[:-2000], 400, "invalid_image"),
        ("truncated avif", encode(picture(200, 200), "AVIF")[:-200], 400, "invalid_image"),
        ("truncated heic", heic(picture(200, 200))[:-200], 400, "invalid_image"),
        ("animated gif", animated("GIF"), 400, "animated_image"),
        ("animated webp", animated("WEBP"), 400, "animated_image"),
        ("animated png", animated("PNG"), 400, "animated_image"),
        ("animated avif", animated("AVIF"), 400, "animated_image"),
        ("truncated png", png(200, 200)[:-2000], 400, "invalid_image"),
        ("truncated jpeg", whole_jpeg[: len(whole_jpeg) // 2], 400, "invalid_image"),
        ("truncated webp", whole_webp[: len(whole_webp) // 2], 400, "invalid_image"),
        ("png signature alone", b"\x89PNG\r\n\x1a\n", 400, "invalid_image"),
        ("jpeg called png", b"\x89PNG\r\n\x1a\n" + whole_jpeg, 400, "invalid_image"),
        ("100 megapixels", hundred_megapixel_png(), 413, "image_too_large"),
        ("one long line", png(1, 12_000), 413, "image_too_large"),
    ]
