"""Opens one picture of a folder as the service would, and cuts the square that a batch needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = ["open_picture", "square"]


def open_picture(path: Path, short_side_px: int) -> Image.Image:
    """A picture in RGB, orientation applied, alpha laid on white.

    Args:
        path: JPEG, PNG or WebP.
        short_side_px: larger pictures are scaled down to it; smaller ones stay as they are.

    Raises:
        OSError: the file is no picture that can be read.
    """
    with Image.open(path) as opened:
        opened.draft("RGB", (short_side_px * 2, short_side_px * 2))
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = image.convert("RGB")
    scale = short_side_px / min(image.size)
    if scale >= 1:
        return image
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def square(path: Path, side_px: int) -> np.ndarray:
    """The middle of a picture, (side, side, 3) uint8; smaller pictures are scaled up.

    Raises:
        OSError: the file is no picture that can be read.
    """
    image = open_picture(path, side_px)
    return np.asarray(ImageOps.fit(image, (side_px, side_px), Image.Resampling.LANCZOS))
