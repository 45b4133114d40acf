"""What a picture costs outside the network: a JPEG decoded, the purified image encoded and wrapped.

Processor time of the very functions that the decode and encode processes run, without the ways
between processes, and the size of the file. The baseline of each encoder is Pillow's own for the
same format, in turns; that of each size is the PNG's.
"""

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Figure, percentiles_ms
from codefend.models.codec import (
    JPEG_QUALITY,
    ImageFormat,
    chroma_subsampling,
    data_url,
    encode_image,
)
from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.settings import Settings

__all__ = ["measure_codec", "name_of_file"]

SIDES_PX = (512, 1024)
SENSOR_NOISE = 1.5
UPLOAD_QUALITY = 90
PICTURE = Path(__file__).parent.parent / "gallery" / "images" / "000-clean.png"
# Each file that the service can write. Strategy 3 matches runs alone: what this project wrote PNGs
# with before its own writer.
PILLOW: dict[tuple[ImageFormat, int], dict[str, Any]] = {
    (ImageFormat.PNG, JPEG_QUALITY): {"compress_level": 1, "compress_type": 3},
    (ImageFormat.WEBP, JPEG_QUALITY): {"lossless": True, "method": 0},
    **{
        (ImageFormat.JPEG, quality): {
            "quality": quality,
            "subsampling": chroma_subsampling(quality),
        }
        for quality in (JPEG_QUALITY, 75, 60)
    },
}


def measure_codec(num_rounds: int) -> tuple[list[Figure], str]:
    """Measures decoding, each encoding, and both with the `data:` URL around the result.

    Args:
        num_rounds: Repetitions of each, in turns.

    Returns:
        The figures, and the device.
    """
    figures = [row for side_px in SIDES_PX for row in _measure_side(side_px, num_rounds)]
    return figures, "cpu"


def _measure_side(side_px: int, num_rounds: int) -> Iterator[Figure]:
    pixels = _photo_like(side_px)
    uploaded = _by_pillow(pixels, ImageFormat.JPEG, quality=UPLOAD_QUALITY)
    limits = PictureLimits.of(Settings())
    works: dict[str, Callable[[], object]] = {"decode": lambda: decode_picture(uploaded, limits)}
    sizes: dict[str, int] = {}
    for (image_format, quality), options in PILLOW.items():
        name = name_of_file(image_format, quality)
        works[name] = partial(encode_image, pixels, image_format, quality)
        works[f"{name} by Pillow"] = partial(_by_pillow, pixels, image_format, **options)
        works[f"decode, {name} and data URL"] = partial(
            _whole, uploaded, limits, image_format, quality
        )
        sizes[name] = len(encode_image(pixels, image_format, quality))
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(num_rounds):
        for name, work in works.items():
            started_s = time.process_time()
            work()
            times[name].append(time.process_time() - started_s)
    medians_ms = {name: 1000 * float(np.median(seconds)) for name, seconds in times.items()}
    config: dict[str, object] = {"side_px": side_px, "upload_bytes": len(uploaded)}
    for name in works:
        yield Figure(
            name,
            {**config, "baseline": "Pillow"} if f"{name} by Pillow" in works else config,
            medians_ms[name],
            "ms of processor time",
            **percentiles_ms(times[name]),
            baseline=medians_ms.get(f"{name} by Pillow"),
        )
    beside = {**config, "baseline": "png"}
    for name, size in sizes.items():
        yield Figure(f"{name} bytes", beside, size, "bytes", baseline=sizes["png"])


def name_of_file(image_format: ImageFormat, quality: int) -> str:
    """What rows call a file: its format, and of a JPEG its quality."""
    return f"jpeg {quality}" if image_format is ImageFormat.JPEG else image_format.value


def _photo_like(side_px: int) -> NDArray[np.uint8]:
    with Image.open(PICTURE) as picture:
        scaled = picture.convert("RGB").resize((side_px, side_px), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, SENSOR_NOISE, (side_px, side_px, 3))
    return np.clip(np.asarray(scaled) + noise, 0, 255).astype(np.uint8)


def _by_pillow(pixels: NDArray[np.uint8], image_format: ImageFormat, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format.value, **options)
    return buffer.getvalue()


def _whole(uploaded: bytes, limits: PictureLimits, image_format: ImageFormat, quality: int) -> str:
    pixels, _ = decode_picture(uploaded, limits)
    return data_url(encode_image(pixels, image_format, quality), image_format)
