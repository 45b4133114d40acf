"""A real image-to-text model with gradients: PP-OCRv6's recogniser, one line of print at a time.

Held out: nothing ever trains on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.attacks.interface import Objective
from codefend.lab.encoders.graph import Graph
from codefend.lab.encoders.onnx_reader import read_onnx
from codefend.lab.encoders.releases import ENCODERS_FOLDER, READER, RELEASES, read_release
from codefend.lab.errors import LabError

__all__ = ["LineReader", "towards_text"]

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
