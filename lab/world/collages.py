"""Photographed things on photographed places, from packages that no training ever saw.

An ImageNet classifier knows animals, food and tools; wallpapers show landscapes. Tux Paint's stamps
are cut out of photos: each is laid on a window of a wallpaper of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.programs import fetch_debian_package
from codefend.lab.progress import progress
from codefend.lab.world.assets import photo_paths

__all__ = ["build_collages", "thing_of"]

THINGS_PACKAGE = "tuxpaint-stamps-default"
PLACES_PACKAGE = "lomiri-wallpapers-16.04"
SIDE_PX = 320
_THING_SHARES = (0.45, 0.95)  # of the side, the larger edge of what is laid on it
_VIEW_MARK = "--"
_DRAWINGS = "cartoon"  # the package's folders of drawings, however many colours they have
_VARIANT = re.compile(r"([-_]?(mirror|\d+[a-z]?))+$")
_LEAST_SIDE_PX = 150
_LEAST_COLOURS = 4000  # a drawing has fewer


def build_collages(packages: Path, out: Path, *, num_views: int = 1, seed: int = 0) -> int:
    """Writes pictures of 320 × 320 pixels of every photographed stamp, and says how many.

    Stamps that differ by a number or a mirror only are one thing.

    Args:
        packages: folder of the two Debian packages; fetched where they are not there.
        out: folder of PNG files, named ``THING--VIEW.png``.
        num_views: pictures of each thing: another place, another size.
        seed: of windows, places and sizes.

    Raises:
        LabError: A package cannot be fetched, or holds no photos.
    """
    for package in (THINGS_PACKAGE, PLACES_PACKAGE):
        fetch_debian_package(package, packages / package)
    places = [_read(path, "RGB") for path in sorted(photo_paths(packages / PLACES_PACKAGE))]
    things = _by_thing(sorted(_photographs(packages / THINGS_PACKAGE)))
    if not places or not things:
        raise LabError(f"{packages} holds no photographed things, or no places for them")
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number, (name, paths) in enumerate(progress(things.items(), desc="collages", unit="thing")):
        for view in range(num_views):
            place = _window(places[(number + view) % len(places)], rng)
            picture = _lay(_read(paths[view % len(paths)], "RGBA"), place, rng)
            picture.save(out / f"{name}{_VIEW_MARK}{view}.png")
    return len(things) * num_views


def thing_of(picture: str) -> str:
    """What a picture of ``build_collages`` shows; any other picture is a thing of its own."""
    return picture.partition(_VIEW_MARK)[0]


def _by_thing(paths: Sequence[Path]) -> dict[str, list[Path]]:
    things: dict[str, list[Path]] = {}
    for path in paths:
        things.setdefault(_VARIANT.sub("", path.stem).lower() or path.stem, []).append(path)
    return things


def _photographs(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*.png"):
        if _DRAWINGS in path.parts:
            continue
        with Image.open(path) as image:
            if image.mode in {"RGBA", "LA", "P"} and min(image.size) >= _LEAST_SIDE_PX:
                pixels = np.asarray(image.convert("RGBA"))
                opaque = pixels[pixels[..., 3] == 255][:, :3]
                if len(np.unique(opaque, axis=0)) >= _LEAST_COLOURS:
                    yield path


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
    scale = float(rng.uniform(*_THING_SHARES)) * SIDE_PX / max(thing.size)
    size = (max(1, round(thing.width * scale)), max(1, round(thing.height * scale)))
    thing = thing.resize(size, Image.Resampling.LANCZOS)
    left, top = (int(rng.integers(SIDE_PX - length + 1)) for length in size)
    place.paste(thing, (left, top), thing)
    return place
