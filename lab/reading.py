"""Reads pictures of text as a machine does, and counts the characters that it got wrong.

Tesseract runs as a subprocess: from pixels to words with their places.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from codefend.lab.documents.document import Box, Document, TextLine
from codefend.lab.errors import LabError
from codefend.lab.programs import run_program
from codefend.models.codec import encode_image

__all__ = ["Tesseract", "Word", "character_errors", "edit_distance"]

# What the eye does not tell apart, written in one way.
_SAME = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": "-", "–": "-"})  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Word:
    """A word as read, and where: left, top, right, bottom in pixels."""

    text: str
    box: Box


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
        first_line = run_program([executable, "--version"]).decode().splitlines()[0]
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
        options = ["-l", "eng", "--psm", _PAGE_SEGMENTATION_MODE, "tsv"]
        table = run_program(
            [self.executable, "-", "-", *options],
            given=encode_image(np.asarray(large)),
            # Its own threads wait for each other longer than they help on pictures this small.
            environment={"OMP_THREAD_LIMIT": "1"},
            timeout_s=TIMEOUT_S,
        )
        return _words(table.decode(), scale)


def _words(table: str, scale: float) -> list[Word]:
    """The rows of a TSV table that hold words, in pixels of the picture as it was given."""
    header, *rows = (row.split("\t") for row in table.splitlines() if row)
    found = []
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        text = cells.get("text", "").strip()
        if text:
            left, top, width, height = (
                float(cells[name]) / scale for name in ("left", "top", "width", "height")
            )
            found.append(Word(text, (left, top, left + width, top + height)))
    return found


def character_errors(document: Document, words: Sequence[Word]) -> int:
    """Edits between what a document says and what was read of it.

    Every word goes to the line in which its centre lies, so that the order in which a reader takes
    columns and buttons does not count; a word in no line counts as so many insertions.

    Args:
        document: the truth.
        words: as read, in pixels of the document.
    """
    read: list[list[Word]] = [[] for _ in document.lines]
    num_stray = 0
    for word in words:
        number = _line_of(word, document.lines)
        if number is None:
            num_stray += len(word.text)
        else:
            read[number].append(word)
    return num_stray + sum(map(_errors_of, document.lines, read))


def _errors_of(line: TextLine, words: Sequence[Word]) -> int:
    said = " ".join(word.text for word in sorted(words, key=lambda word: word.box[0]))
    return edit_distance(said.translate(_SAME), line.text)


def _line_of(word: Word, lines: Sequence[TextLine]) -> int | None:
    """The line with the word's centre in it, or within half its height above, below or beside."""
    x, y = (word.box[0] + word.box[2]) / 2, (word.box[1] + word.box[3]) / 2
    beyond = []  # how far the centre lies outside what each line may claim
    for left, top, right, bottom in (line.box for line in lines):
        distance = max(left - x, x - right, 0.0) + max(top - y, y - bottom, 0.0)
        beyond.append((distance, distance <= (bottom - top) / 2))
    nearest = min(range(len(lines)), key=lambda n: beyond[n][0], default=None)
    return nearest if nearest is not None and beyond[nearest][1] else None


def edit_distance(said: str, truth: str) -> int:
    """Fewest insertions, deletions and substitutions: Levenshtein 1966."""
    previous = list(range(len(truth) + 1))
    for row, character in enumerate(said, start=1):
        current = [row]
        for column, wanted in enumerate(truth, start=1):
            replaced = previous[column - 1] + (character != wanted)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]
