"""What ``--data`` names: a folder of pictures, or a dataset's id."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.folders.folder import ImageFolder, open_folder
from codefend.lab.folders.hub import fetch_dataset

__all__ = ["Data", "SizePx", "open_data"]

DATASETS = Path("work/datasets")

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
        LabError: there are no such pictures.
    """
    folder = Path(source)
    return open_folder(folder if folder.is_dir() else fetch_dataset(source, DATASETS), size_px)
