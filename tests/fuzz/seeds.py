"""Valid pictures of every kind that the guard takes, small: what mutations start from."""

import io
from functools import cache

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin

from tests.service.pictures import animated, picture

SIDES = (24, 40)


@cache
def seeds():
    """Name and bytes of each."""
    return [*_pngs(), *_jpegs(), *_webps(), *_gifs(), *_avifs(), *_heics()]


def _pngs():
    rgb = Image.fromarray(picture(*SIDES))
    grey = rgb.convert("L")
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 100, zip=True)
    text.add_itxt("c", "d" * 100, zip=True)
    yield "png rgb", _encode(rgb, "PNG")
    yield "png rgba", _encode(_with_alpha(rgb), "PNG")
    yield "png grey", _encode(grey, "PNG")
    yield "png grey with alpha", _encode(grey.convert("LA"), "PNG")
    yield "png palette", _encode(rgb.convert("P"), "PNG")
    yield "png palette with transparency", _encode(rgb.convert("P"), "PNG", transparency=b"\0\x80")
    yield "png colour key", _encode(rgb, "PNG", transparency=(1, 2, 3))
    yield "png bits", _encode(rgb.convert("1"), "PNG")
    yield "png 16 bits", _encode(Image.fromarray(np.asarray(grey, np.uint16) * 257), "PNG")
    yield "png text", _encode(rgb, "PNG", pnginfo=text, exif=_exif(6), icc_profile=_profile())
    yield "png animated", animated("PNG")


def _jpegs():
    rgb = Image.fromarray(picture(*SIDES))
    yield "jpeg", _encode(rgb, "JPEG")
    yield "jpeg 4:4:4", _encode(rgb, "JPEG", subsampling=0, quality=95)
    yield "jpeg grey", _encode(rgb.convert("L"), "JPEG")
    yield "jpeg cmyk", _encode(rgb.convert("CMYK"), "JPEG")
    yield "jpeg progressive", _encode(rgb, "JPEG", progressive=True)
    yield "jpeg restarts", _encode(rgb, "JPEG", restart_marker_blocks=1)
    yield "jpeg metadata", _encode(rgb, "JPEG", exif=_exif(3), icc_profile=_profile(), comment="c")


def _webps():
    rgb = Image.fromarray(picture(*SIDES))
    yield "webp", _encode(rgb, "WEBP")
    yield "webp lossless", _encode(rgb, "WEBP", lossless=True)
    yield "webp alpha", _encode(_with_alpha(rgb), "WEBP")
    yield "webp lossless alpha", _encode(_with_alpha(rgb), "WEBP", lossless=True, exact=True)
    yield "webp metadata", _encode(rgb, "WEBP", exif=_exif(8), icc_profile=_profile())
    yield "webp animated", animated("WEBP")


def _gifs():
    rgb = Image.fromarray(picture(*SIDES))
    yield "gif", _encode(rgb, "GIF")
    yield "gif grey", _encode(rgb.convert("L"), "GIF")
    yield "gif with transparency", _encode(rgb.convert("P"), "GIF", transparency=7, comment=b"c")
    yield "gif animated", animated("GIF")


def _avifs():
    rgb = Image.fromarray(picture(*SIDES))
    yield "avif", _encode(rgb, "AVIF")
    yield "avif 4:4:4", _encode(rgb, "AVIF", subsampling="4:4:4", quality=95)
    yield "avif alpha", _encode(_with_alpha(rgb), "AVIF")
    yield "avif metadata", _encode(rgb, "AVIF", exif=_exif(6), icc_profile=_profile())
    yield "avif animated", animated("AVIF")


def _heics():
    rgb = Image.fromarray(picture(*SIDES))
    yield "heic", _encode_heic(rgb)
    yield "heic 4:4:4", _encode_heic(rgb, chroma=444)
    yield "heic alpha", _encode_heic(_with_alpha(rgb))
    rgb.info["exif"] = _exif(6).tobytes()
    yield "heic metadata", _encode_heic(rgb, icc_profile=_profile())


def _encode_heic(image, **options):
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def _encode(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _with_alpha(image):
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0x9286] = b"a comment"
    return exif


def _profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
