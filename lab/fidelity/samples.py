"""Images that nobody attacked, and what is compared with what: photos, scenes, text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from codefend.lab.documents.document import Document
from codefend.lab.errors import LabError
from codefend.lab.world.compose import World

__all__ = [
    "Sample",
    "document_samples",
    "folder_samples",
    "photo_samples",
    "scene_samples",
]

LARGEST_SIDE_PX = 512
SMALLEST_SIDE_PX = 16
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and where it counts.

    Attributes:
        task: ``photo``, ``scene`` or ``text``.
        image: (H, W, 3) uint8.
        cluster: what is drawn as one in the bootstrap; images of one page share it.
        groups: what it counts under beside its task, such as ``page``, ``12px``, ``page:12px``.
        document: what it says, if it says anything.
    """

    task: str
    image: np.ndarray
    cluster: str
    groups: tuple[str, ...] = ()
    document: Document | None = None


def photo_samples(world: World) -> list[Sample]:
    """The photos of the test split: none was ever trained on."""
    return [
        Sample("photo", _cropped(photo.permute(1, 2, 0).numpy()), f"photo {number}")
        for number, photo in enumerate(world.photos["test"])
    ]


def folder_samples(folder: Path, task: str = "photo") -> list[Sample]:
    """All pictures below a folder, upright, the middle of them where they are large.

    Raises:
        LabError: There is none, or one cannot be read or is tiny.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise LabError(f"no images in {folder}")
    return [Sample(task, _read(path), str(path.relative_to(folder))) for path in paths]


def scene_samples(images: Sequence[np.ndarray]) -> list[Sample]:
    """Clean scenes, (H, W, 3) uint8 each."""
    return [Sample("scene", image, f"scene {i}") for i, image in enumerate(images)]


def document_samples(documents: Sequence[Document]) -> Iterator[Sample]:
    """Pictures of text; one text in several sizes is one cluster."""
    for document in documents:
        size = f"{document.text_size_px}px"
        yield Sample(
            "text",
            document.image,
            f"{document.kind} {document.index}",
            (document.kind, size, f"{document.kind}:{size}"),
            document,
        )


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise LabError(f"{path} cannot be read: {error}") from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE_PX:
        raise LabError(f"{path} is smaller than {SMALLEST_SIDE_PX} pixels")
    return _cropped(pixels)


def _cropped(pixels: np.ndarray) -> np.ndarray:
    """The middle, at most 512 pixels high and wide; nothing is resized."""
    height, width = pixels.shape[:2]
    top, left = max(0, height - LARGEST_SIDE_PX) // 2, max(0, width - LARGEST_SIDE_PX) // 2
    window = pixels[top : top + LARGEST_SIDE_PX, left : left + LARGEST_SIDE_PX]
    return np.ascontiguousarray(window)
