"""Makes of a picture's colours those that a viewer shows on a usual screen: sRGB, on white.

Whoever looked at the file with a browser saw these; the model has to see the same, or an attacker
could show something else to each.
"""

import io
from functools import cache

import numpy as np
from PIL import Image, ImageCms

__all__ = ["MAX_PROFILE_BYTES", "lay_on_white"]

# A printer's, with tables in both directions, has two or three.
MAX_PROFILE_BYTES = 4 << 20
_WHITE = (255, 255, 255, 255)
_INDEXED = frozenset({"P", "PA"})
_DEEP_GREYS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA = {"LA": "L", "La": "L", "RGBA": "RGB", "RGBa": "RGB"}
# PNG's gAMA of a picture for usual screens, and how near to it one is still such a picture.
_SCREEN_GAMMA, _GAMMA_TOLERANCE = 1 / 2.2, 0.05
# Levels along each axis of the colours by which a profile is tried.
_PROBE_LEVELS = 9


def lay_on_white(picture: Image.Image) -> Image.Image:
    """Makes RGB of any decoded picture: transparency becomes white, profiles are applied.

    A colour profile that is broken, too long, or of another kind of colours than the picture's is
    passed over, as browsers do.

    Args:
        picture: Loaded; its `info` holds what its file says of its colours.

    Raises:
        ValueError: It has colours by number, and no table of them.
    """
    profile, info = picture.info.get("icc_profile"), picture.info
    is_shifted = "gamma" in info and "srgb" not in info
    if picture.mode == "RGB" and not (profile or is_shifted or "transparency" in info):
        return picture
    colours, alpha = _split(picture)
    if profile:
        colours = _apply_profile(colours, profile)
    elif is_shifted:
        colours = _apply_gamma(colours, info["gamma"])
    colours = colours.convert("RGB")
    if alpha is None:
        return colours
    colours.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", colours.size, _WHITE), colours).convert("RGB")


def _split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours of eight bits as L, RGB or CMYK, and opacity if there is any transparency."""
    if picture.mode in _INDEXED and picture.palette is None:
        msg = "the image has colours by number, and no table of them"
        raise ValueError(msg)
    if picture.mode in _DEEP_GREYS:
        return _split_deep_grey(picture)
    if not picture.has_transparency_data:
        return picture if picture.mode in {"L", "CMYK"} else picture.convert("RGB"), None
    if picture.mode not in _WITH_ALPHA:
        picture = picture.convert("LA" if picture.mode in {"1", "L"} else "RGBA")
    elif picture.mode in {"La", "RGBa"}:
        picture = picture.convert(picture.mode.upper())
    return picture.convert(_WITH_ALPHA[picture.mode]), picture.getchannel("A")


def _split_deep_grey(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Pillow would clip 16 bits at 255: keeps the high byte, as every viewer does."""
    levels = np.asarray(picture.convert("I"))
    colours = Image.fromarray(np.clip(levels >> 8, 0, 255).astype(np.uint8))
    key = picture.info.get("transparency")
    if not isinstance(key, int):
        return colours, None
    return colours, Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))


def _apply_profile(colours: Image.Image, profile: bytes) -> Image.Image:
    if len(profile) > MAX_PROFILE_BYTES:
        return colours
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if colours.mode == "RGB" and _changes_nothing(given):
            return colours
        transform = ImageCms.buildTransform(given, _srgb(), colours.mode, "RGB")
        return transform.apply(colours)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return colours


def _changes_nothing(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether it is one of the many spellings of sRGB: no colour would move by over one level."""
    levels = np.linspace(0, 255, _PROBE_LEVELS).astype(np.uint8)
    probes = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    exactly = ImageCms.Flags.NOOPTIMIZE  # a table for many pixels takes longer than these few
    transform = ImageCms.buildTransform(profile, _srgb(), "RGB", "RGB", flags=exactly)
    moved = np.asarray(transform.apply(Image.fromarray(probes)), np.int16) - probes
    return int(np.abs(moved).max()) <= 1


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _apply_gamma(colours: Image.Image, gamma: float) -> Image.Image:
    """Follows a PNG's gAMA (W3C, PNG, third edition, 13.13): a picture may look dark without it."""
    if not gamma > 0 or abs(gamma / _SCREEN_GAMMA - 1) < _GAMMA_TOLERANCE:
        return colours
    light = (np.arange(256) / 255) ** (1 / gamma)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return colours.point([round(255 * level) for level in encoded] * len(colours.getbands()))
