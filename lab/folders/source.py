"""What ``--data`` names: a folder of pictures, or a dataset's id.

A dataset of the Hugging Face ``datasets`` package is written out as a folder of pictures.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.folders.folder import ImageFolder, open_folder
from codefend.lab.folders.public import is_public
from codefend.lab.progress import progress

__all__ = ["Data", "SizePx", "fetch_dataset", "open_data"]

DATASETS = Path("work/datasets")
MOST_PICTURES = 20_000
_DONE = ".complete"

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Folder of images, or an id of the datasets package, instead of the embedded world. "
        "Without a scenes.json in it, the victim's own answers to clean images are the truth.",
    ),
]
SizePx = Annotated[int, typer.Option(help="With --data: side that images are cut and scaled to.")]


def open_data(source: str, size_px: int) -> ImageFolder:
    """The pictures of ``--data``.

    Args:
        source: a folder, or else an id for the ``datasets`` package.
        size_px: side of the squares that a batch is made of.

    Raises:
        LabError: there are no such pictures, or they are a public test set.
    """
    if is_public(source):
        raise LabError(
            f"{source} is a test set, which only `evaluate` takes: give a folder of other pictures"
        )
    folder = Path(source)
    return open_folder(folder if folder.is_dir() else fetch_dataset(source, DATASETS), size_px)


def fetch_dataset(source: str, into: Path) -> Path:
    """The folder of a dataset's first 20,000 pictures; one that is whole is not fetched again.

    Args:
        source: an id, ``owner/name``; its training split and first column of images are taken.
        into: where datasets are kept, a folder each.

    Raises:
        LabError: the package is not installed, or there is no such dataset with pictures.
    """
    folder = into / source.replace("/", "--")
    if (folder / _DONE).exists():
        return folder
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise LabError(
            f"{source} is no folder; for a dataset of that id, first: pip install datasets"
        ) from error
    try:
        rows = datasets.load_dataset(source, split="train", streaming=True)
        pictures = _pictures(rows, datasets.Image)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = islice(pictures, MOST_PICTURES)
        for number, data in enumerate(progress(chosen, desc=source, unit="picture")):
            (folder / f"{number:05d}.{_format(data)}").write_bytes(data)
    except (OSError, ValueError) as error:
        raise LabError(
            f"{source} is neither a folder nor a dataset of pictures: {error}"
        ) from error
    (folder / _DONE).touch()
    return folder


def _pictures(rows: Any, image_feature: Any) -> Iterator[bytes]:
    """The files of the first column of images, as they were uploaded."""
    columns = [
        name for name, kind in (rows.features or {}).items() if isinstance(kind, image_feature)
    ]
    if not columns:
        raise ValueError("it has no column of images")
    for row in rows.cast_column(columns[0], image_feature(decode=False)):
        found = row[columns[0]]
        yield found["bytes"] or Path(found["path"]).read_bytes()


def _format(data: bytes) -> str:
    with Image.open(BytesIO(data)) as image:
        return str(image.format).lower()
