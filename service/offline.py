"""Purifies a file or a folder from the shell, with the engine that the service runs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from codefend.models.buckets import choose_bucket, crop_from_bucket, pad_to_bucket
from codefend.models.codec import ImageFormat, encode_image
from codefend.service.decode.picture import PictureLimits, decode_picture
from codefend.service.errors import RequestRefused
from codefend.service.formats.table import FORMAT_LABELS, FORMATS
from codefend.service.purify.engine import Engine
from codefend.service.settings import Settings

__all__ = ["purify_files"]

SOURCE_SUFFIXES = frozenset(suffix for row in FORMATS.values() for suffix in row.suffixes)
_FORMATS = {".jpg": ImageFormat.JPEG, ".jpeg": ImageFormat.JPEG, ".webp": ImageFormat.WEBP}


@dataclass(frozen=True, slots=True)
class _Errand:
    source: Path
    target: Path


def purify_files(
    source: Path,
    target: Path,
    engine: Engine,
    settings: Settings,
    *,
    overwrite: bool,
) -> list[str]:
    """Purifies one image, or all images of a folder and its subfolders.

    Every result is written whole or not at all, so that the work can be interrupted at any moment;
    started again, it passes over what is done.

    Args:
        source: A file, or a folder.
        target: A file whose suffix chooses the format, or a folder that takes PNGs.
        engine: The purifier.
        settings: How large a picture may be, and how it is scaled and cut.
        overwrite: Purify again what is done.

    Returns:
        One sentence for each file that could not be purified.

    Raises:
        FileNotFoundError: There is no such source, or no image in it.
    """
    errands = list(_list_errands(source, target))
    if not errands:
        msg = f"no {FORMAT_LABELS} in {source}"
        raise FileNotFoundError(msg)
    due = [errand for errand in errands if overwrite or not errand.target.exists()]
    failures = []
    with tqdm(total=len(errands), initial=len(errands) - len(due), unit="image") as progress:
        for errand in due:
            try:
                _purify_file(errand, engine, settings)
            except (RequestRefused, OSError) as error:
                failures.append(f"{errand.source}: {error}")
            progress.update()
    return failures


def _list_errands(source: Path, target: Path) -> Iterator[_Errand]:
    if not source.is_dir():
        if source.exists():
            into_folder = target.is_dir()
            yield _Errand(source, target / f"{source.stem}.png" if into_folder else target)
        return
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in SOURCE_SUFFIXES and path.is_file():
            # The old suffix stays in the name: a.png and a.jpg may lie side by side.
            name = path.name if path.suffix.lower() == ".png" else f"{path.name}.png"
            yield _Errand(path, target / path.relative_to(source).with_name(name))


def _purify_file(errand: _Errand, engine: Engine, settings: Settings) -> None:
    pixels, _ = decode_picture(errand.source.read_bytes(), PictureLimits.of(settings))
    image_format = _FORMATS.get(errand.target.suffix.lower(), ImageFormat.PNG)
    purified = settings.tiling.apply(partial(_purify, engine), pixels)
    encoded = encode_image(purified, image_format)
    errand.target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = errand.target.with_name(f".{errand.target.name}.unfinished")
    try:
        unfinished.write_bytes(encoded)
        os.replace(unfinished, errand.target)
    finally:
        unfinished.unlink(missing_ok=True)


def _purify(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    padded = pad_to_bucket(pixels, choose_bucket(height, width))
    return crop_from_bucket(engine.purify(padded[np.newaxis])[0], height, width)
