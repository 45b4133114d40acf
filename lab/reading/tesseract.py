"""Tesseract as a subprocess: from pixels to words with their places."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.reading.words import Word
from codefend.models.codec import encode_image

__all__ = ["Tesseract"]

TIMEOUT_S = 120
READING_SIZE_PX = 32
"""Text is enlarged to this em size before it is read; Tesseract is poor at letters below 20 px."""

# One uniform block: of the modes that find lines it alone keeps the columns of a receipt and the
# entries of a dark screen; it reads pages as well as the others.
_PAGE_SEGMENTATION_MODE = "6"


@dataclass(frozen=True, slots=True)
class Tesseract:
    """An installed Tesseract.

    Attributes:
        executable: its path.
        version: as it says itself.
    """

    executable: str
    version: str

    @classmethod
    def find(cls) -> Tesseract:
        """The one on the search path.

        Raises:
            LabError: There is none, or it does not run.
        """
        executable = shutil.which("tesseract")
        if executable is None:
            raise LabError(
                "tesseract is not installed; install tesseract-ocr (apt-get install "
                "tesseract-ocr), or leave text out with --tasks photo,scene"
            )
        first_line = _run([executable, "--version"], b"").splitlines()[0]
        return cls(executable, first_line.removeprefix("tesseract").strip())

    @property
    def name(self) -> str:
        """For reports and caches."""
        return f"tesseract {self.version}"

    def __call__(self, image: np.ndarray, *, text_size_px: int) -> list[Word]:
        """What the picture says.

        Args:
            image: (H, W, 3) uint8.
            text_size_px: em size of its text; smaller than 32 px is enlarged to that (Lanczos).

        Raises:
            LabError: Tesseract failed.
        """
        scale = max(1.0, READING_SIZE_PX / text_size_px)
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        large = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
        command = [self.executable, "-", "-", "-l", "eng"]
        command += ["--psm", _PAGE_SEGMENTATION_MODE, "tsv"]
        return _words(_run(command, encode_image(np.asarray(large))), scale)


def _run(command: list[str], given: bytes) -> str:
    # One thread: its own threads wait for each other longer than they help on pictures this small.
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    try:
        done = subprocess.run(  # noqa: S603
            command,
            input=given,
            capture_output=True,
            check=True,
            timeout=TIMEOUT_S,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{command[0]} failed: {error}") from error
    except subprocess.CalledProcessError as error:
        detail = error.stderr.decode(errors="replace").strip()[-300:]
        raise LabError(f"{command[0]} failed: {detail}") from error
    return done.stdout.decode("utf-8")


def _words(table: str, scale: float) -> list[Word]:
    """The rows of a TSV table that hold words, in pixels of the picture as it was given."""
    header, *rows = (row.split("\t") for row in table.splitlines() if row)
    column = {name: number for number, name in enumerate(header)}
    found = []
    for row in rows:
        text = row[column["text"]].strip() if len(row) == len(header) else ""
        if text:
            left, top, width, height = (
                float(row[column[name]]) / scale for name in ("left", "top", "width", "height")
            )
            found.append(Word(text, (left, top, left + width, top + height)))
    return found
