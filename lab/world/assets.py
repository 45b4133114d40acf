"""Fetches photos and sprites, groups equal photos, and packs both into one world file.

Called by ``codefend-lab data build``; everything else reads the packed file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import imagehash
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

from codefend.lab.errors import LabError
from codefend.lab.programs import fetch_archive, fetch_debian_package
from codefend.lab.world.layout import KINDS, SIGN_WORDS
from codefend.lab.world.splits import SAME_PHOTO_BITS

__all__ = ["build_world_file", "fetch_packages", "photo_paths"]

PHOTO_PACKAGES = (
    "plasma-workspace-wallpapers",
    "gnome-backgrounds",
    "mate-backgrounds",
    "lomiri-wallpapers-20.04",
    "ukui-wallpapers",
)
SPRITE_PACKAGE = "@lobehub/fluent-emoji-3d"
PHOTO_SHORT_SIDE_PX = 512
SPRITE_SIDE_PX = 96
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_FONT_FACES = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")


def fetch_packages(into: Path) -> tuple[Path, Path]:
    """Download and unpack the photo and sprite packages; what is already there is kept.

    Returns:
        The folders of photos and of sprites.

    Raises:
        LabError: A package client is missing or failed.
    """
    photos, sprites = into / "photos", into / "sprites"
    photos.mkdir(parents=True, exist_ok=True)
    try:
        for package in tqdm(PHOTO_PACKAGES, desc="photos", unit="package"):
            fetch_debian_package(package, photos / package)
        if not sprites.exists():
            with TemporaryDirectory(dir=into) as scratch:
                archive = fetch_archive("npm", SPRITE_PACKAGE, Path(scratch))
                _unpack_files(archive, sprites)
    except LabError as error:
        raise LabError(f"{error}; or give folders with --photos and --sprites") from error
    return photos, sprites


def _unpack_files(archive: Path, into: Path) -> None:
    """Regular files of a tar archive that stay inside ``into``; nothing else of it.

    Python 3.11 before 3.11.4 has no extraction filters.
    """
    root = into.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = (root / member.name).resolve()
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None and path.is_relative_to(root):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())


def build_world_file(photos: Path, sprites: Path, out: Path) -> None:
    """Pack every different photo under ``photos`` and every kind's sprite into ``out`` (.npz).

    Photos keep their shape with a short side of 512 px; sprites and signs become 96 px RGBA.
    Photos that are the same picture in other sizes or crops share a group number.

    Raises:
        LabError: A folder holds too few photos, or lacks a kind's sprite.
    """
    packed = {f"sprite_{kind.name}": _read_sprite(sprites, kind.code_point) for kind in KINDS}
    packed |= {
        f"sign_{word}_{face}": _draw_sign(word, font)
        for word in SIGN_WORDS
        for face, font in enumerate(_FONT_FACES)
    }
    kept: list[tuple[imagehash.ImageHash, Path]] = []
    largest_first = sorted(photo_paths(photos), key=lambda path: (-path.stat().st_size, str(path)))
    for path in tqdm(largest_first, desc="reading photos", unit="photo"):
        image = _open_photo(path)
        fingerprint = imagehash.phash(image)
        if any(fingerprint - seen <= SAME_PHOTO_BITS for seen, _ in kept):
            continue
        packed[f"photo_{len(kept):04d}"] = np.asarray(image)
        kept.append((fingerprint, path.relative_to(photos)))
    if len(kept) < 10:
        raise LabError(f"{photos} holds {len(kept)} different photos; at least 10 are needed")
    packed["photo_paths"] = np.array([str(path) for _, path in kept])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial.npz")
    np.savez(partial, allow_pickle=False, **packed)
    partial.rename(out)


def photo_paths(folder: Path) -> Iterator[Path]:
    """Every picture below a folder, without screenshots and previews."""
    for path in folder.rglob("*"):
        is_photo = path.suffix.lower() in _SUFFIXES and path.is_file() and not path.is_symlink()
        if is_photo and path.stem not in {"screenshot", "preview"}:
            yield path


def _open_photo(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        opened.draft("RGB", (PHOTO_SHORT_SIDE_PX * 4, PHOTO_SHORT_SIDE_PX * 4))
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = PHOTO_SHORT_SIDE_PX / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    excess = max(image.size) - PHOTO_SHORT_SIDE_PX * 2
    if excess > 0:  # a panorama: the middle is enough
        box = (excess // 2, 0, image.width - excess // 2, image.height)
        image = image.crop(box if image.width > image.height else (box[1], box[0], box[3], box[2]))
    return image


def _read_sprite(folder: Path, code_point: str) -> np.ndarray:
    names = (f"{code_point}.webp", f"{code_point}.png")
    path = next((found for name in names for found in folder.rglob(name)), None)
    if path is None:
        raise LabError(f"{folder} holds no sprite {' or '.join(names)}")
    with Image.open(path) as opened:
        sprite = opened.convert("RGBA")
    sprite = sprite.crop(sprite.getbbox())
    square = _centred(sprite, max(sprite.size))
    return np.asarray(square.resize((SPRITE_SIDE_PX, SPRITE_SIDE_PX), Image.Resampling.LANCZOS))


def _centred(image: Image.Image, side: int) -> Image.Image:
    """On a transparent square."""
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _draw_sign(word: str, face: str) -> np.ndarray:
    """A word in dark letters on a light board as wide as the sprite square."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / face), 48)
    left, top, right, bottom = font.getbbox(word)
    size = (int(right - left) + 20, int(bottom - top) + 20)
    board = Image.new("RGBA", size, (250, 248, 235, 255))
    draw = ImageDraw.Draw(board)
    draw.rectangle((0, 0, board.width - 1, board.height - 1), outline=(60, 40, 30, 255), width=3)
    draw.text((10 - left, 10 - top), word, font=font, fill=(25, 20, 20, 255))
    height = min(SPRITE_SIDE_PX, round(board.height * SPRITE_SIDE_PX / board.width))
    width = round(board.width * height / board.height)
    small = board.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(_centred(small, SPRITE_SIDE_PX))
