"""Lines of print: what an attacker wants each to say instead, and a real model that reads them.

The reader is PP-OCRv6's recogniser, with gradients, one line at a time. It is held out: nothing
ever trains on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.attacks.interface import Objective
from codefend.lab.documents.document import Document, Fonts, TextLine
from codefend.lab.documents.kinds import draw_receipt
from codefend.lab.encoders.graph import Graph
from codefend.lab.encoders.onnx_reader import read_onnx
from codefend.lab.encoders.releases import ENCODERS_FOLDER, READER, RELEASES, read_release
from codefend.lab.errors import LabError

__all__ = ["WISHES", "AttackedLine", "LineReader", "Wish", "attacked_lines", "towards_text"]

Wish = Literal["amount", "name", "nothing"]
WISHES: tuple[Wish, ...] = ("amount", "name", "nothing")
_TEXT_SIZES_PX = (20, 24, 28, 32)
_MARGIN_PX = 6
_SEED = 77  # of receipts that no training draws


@dataclass(frozen=True, slots=True)
class AttackedLine:
    """One line of print.

    Attributes:
        image: (H, W, 3) uint8.
        truth: what it says.
        wish: what the attacker wants changed.
        target: what it shall say; empty for nothing.
        receipt: which receipt it is of; lines of one are a cluster.
    """

    image: np.ndarray
    truth: str
    wish: Wish
    target: str
    receipt: int


def attacked_lines(fonts: Fonts, *, num: int, seed: int = 0) -> list[AttackedLine]:
    """For each wish ``num`` lines: one amount, one name and one other line of every receipt.

    A changed amount has one other digit; a changed name is that of another thing on sale, as near
    in length as the receipt has one; nothing is no text at all.
    """
    found: list[AttackedLine] = []
    for receipt in range(num):
        rng = np.random.default_rng([seed, 13, receipt])
        size_px = int(rng.choice(_TEXT_SIZES_PX))
        document = draw_receipt(receipt, size_px, fonts, seed=_SEED + seed)
        found += _lines_of(document, receipt, rng)
    return found


def _lines_of(document: Document, number: int, rng: np.random.Generator) -> Iterator[AttackedLine]:
    amounts = [line for line in document.lines if line.text.replace(".", "", 1).isdigit()]
    rows = {round(line.box[1]) for line in amounts}
    names = [
        line
        for line in document.lines
        if line not in amounts and any(abs(line.box[1] - row) < 8 for row in rows)
    ]
    amount, name, other = (
        lines[int(rng.integers(len(lines)))] for lines in (amounts, names, amounts + names)
    )
    # By text too: the order of a set differs from process to process.
    others = sorted(
        {line.text for line in names} - {name.text},
        key=lambda text: (abs(len(text) - len(name.text)), text),
    )
    wishes: list[tuple[Wish, TextLine, str]] = [
        ("amount", amount, _other_digit(amount.text, rng)),
        ("name", name, others[0]),
        ("nothing", other, ""),
    ]
    for wish, line, target in wishes:
        yield AttackedLine(_crop(document.image, line), line.text, wish, target, number)


def _other_digit(text: str, rng: np.random.Generator) -> str:
    places = [place for place, character in enumerate(text) if character.isdigit()]
    place = int(rng.choice(places))
    digits = [d for d in "123456789" if d != text[place]]
    return text[:place] + digits[int(rng.integers(len(digits)))] + text[place + 1 :]


def _crop(image: np.ndarray, line: TextLine) -> np.ndarray:
    left, top, right, bottom = (round(edge) for edge in line.box)
    return image[
        max(0, top - _MARGIN_PX) : bottom + _MARGIN_PX,
        max(0, left - _MARGIN_PX) : right + _MARGIN_PX,
    ].copy()


_HEIGHT_PX = 48
_OUTPUT = "fetch_name_0"
_BLANK = 0
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class LineReader:
    """Reads lines of print by connectionist temporal classification (Graves et al. 2006).

    Attributes:
        graph: (B, 3, 48, W) in [-1, 1], blue first, to chances (B, T, classes).
        alphabet: the character of each class; that of class 0, the blank, is empty.
        sha256: of the weights.
    """

    graph: Graph
    alphabet: tuple[str, ...]
    sha256: str

    @classmethod
    def load(cls, folder: Path = ENCODERS_FOLDER) -> LineReader:
        """From the files of ``codefend-lab data encoders``.

        Raises:
            LabError: They are not there.
        """
        (content,) = read_release(READER, folder).values()
        metadata = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
        alphabet = ("", *metadata["character"].rstrip("\n").split("\n"), " ")
        return cls(read_onnx(content), alphabet, RELEASES[READER].sha256)

    def chances(self, images: Tensor) -> Tensor:
        """Of every class at every place of a line, differentiably.

        Args:
            images: (B, 3, H, W) float in [0, 1], each one line of print; any H and W.

        Returns:
            (B, T, classes), each place a distribution; a place is 8 pixels of the line at a height
            of 48.
        """
        width_px = max(16, math.ceil(_HEIGHT_PX * images.shape[3] / images.shape[2]))
        levels = F.interpolate(
            images, (_HEIGHT_PX, width_px), mode="bilinear", align_corners=False, antialias=False
        )
        (found,) = self.graph(2.0 * levels.flip(1) - 1.0, [_OUTPUT])
        chances: Tensor = found
        return chances

    @torch.no_grad()
    def read(self, images: Tensor) -> list[str]:
        """What each line says: the likeliest class a place, repetitions and blanks dropped."""
        texts = []
        for classes in self.chances(images).argmax(dim=2).tolist():
            kept = [
                c for c, before in zip(classes, [_BLANK, *classes], strict=False) if c != before
            ]
            texts.append("".join(self.alphabet[c] for c in kept).strip())
        return texts

    def classes_of(self, text: str) -> list[int]:
        """The classes of a text's characters.

        Raises:
            LabError: One is not in the alphabet.
        """
        unknown = sorted(set(text) - set(self.alphabet))
        if unknown:
            raise LabError(f"{READER} cannot read {' '.join(unknown)}")
        return [self.alphabet.index(character) for character in text]


def towards_text(reader: LineReader, texts: Sequence[str]) -> Objective:
    """What an attacker maximises who wants lines to say something else, or (empty) nothing.

    Args:
        reader: the model attacked.
        texts: what each line shall say.

    Returns:
        An objective of (B, 3, H, W) images: minus the loss of the text, a character in the mean.
    """
    classes = [reader.classes_of(text) for text in texts]
    lengths = torch.tensor([len(each) for each in classes])
    joined = torch.tensor([c for each in classes for c in each], dtype=torch.long)

    def objective(images: Tensor) -> Tensor:
        logs = reader.chances(images).clamp_min(_TINY).log().transpose(0, 1)
        places = torch.full((len(texts),), logs.shape[0], dtype=torch.long)
        losses = F.ctc_loss(logs, joined, places, lengths, blank=_BLANK, reduction="none")
        return -losses / lengths.clamp_min(1)

    return objective
