"""Photographed things on photographed places, from packages that no training ever saw.

An ImageNet classifier knows animals, food and tools; wallpapers show landscapes. Tux Paint's stamps
are cut out of photos: each is laid on a window of a wallpaper of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lab.errors import LabError
from lab.progress import progress
from lab.world.assets import fetch_debian_package, photo_paths

__all__ = ["build_collages"]

THINGS_PACKAGE = "tuxpaint-stamps-default"
PLACES_PACKAGE = "lomiri-wallpapers-16.04"
SIDE_PX = 320
_THING_SHARE = 0.85  # of the side, the larger edge of what is laid on it
_LEAST_SIDE_PX = 150
_LEAST_COLOURS = 4000  # a drawing has fewer


def build_collages(packages: Path, out: Path, *, seed: int = 0) -> int:
    """Writes one picture of 320 × 320 pixels for every photographed stamp, and says how many.

    Args:
        packages: folder of the two Debian packages; fetched where they are not there.
        out: folder of PNG files.
        seed: of windows and places.

    Raises:
        LabError: A package cannot be fetched, or holds no photos.
    """
    for package in (THINGS_PACKAGE, PLACES_PACKAGE):
        fetch_debian_package(package, packages / package)
    places = [_read(path, "RGB") for path in sorted(photo_paths(packages / PLACES_PACKAGE))]
    things = sorted(_photographs(packages / THINGS_PACKAGE))
    if not places or not things:
        raise LabError(f"{packages} holds no photographed things, or no places for them")
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number, path in enumerate(progress(things, desc="collages", unit="picture")):
        place = _window(places[number % len(places)], rng)
        _lay(_read(path, "RGBA"), place, rng).save(out / f"{number:03d}-{path.stem}.png")
    return len(things)


def _photographs(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            is_cut_out = image.mode in {"RGBA", "LA", "P"} and min(image.size) >= _LEAST_SIDE_PX
            if is_cut_out and _num_colours(image.convert("RGBA")) >= _LEAST_COLOURS:
                yield path


def _num_colours(image: Image.Image) -> int:
    pixels = np.asarray(image)
    opaque = pixels[pixels[..., 3] == 255][:, :3]
    return len(np.unique(opaque, axis=0))


def _read(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        image.draft("RGB", (SIDE_PX * 3, SIDE_PX * 3))
        return image.convert(mode)


def _window(place: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = round(min(place.size) * float(rng.uniform(0.5, 1.0)))
    left, top = (int(rng.integers(length - side + 1)) for length in place.size)
    box = (left, top, left + side, top + side)
    return place.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, box)


def _lay(thing: Image.Image, place: Image.Image, rng: np.random.Generator) -> Image.Image:
    thing = thing.crop(thing.getchannel("A").getbbox())
    scale = _THING_SHARE * SIDE_PX / max(thing.size)
    size = (max(1, round(thing.width * scale)), max(1, round(thing.height * scale)))
    thing = thing.resize(size, Image.Resampling.LANCZOS)
    left, top = (int(rng.integers(SIDE_PX - length + 1)) for length in size)
    place.paste(thing, (left, top), thing)
    return place
