"""What a defence does to one image that nobody attacked, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from codefend.lab.baselines.defence import NO_DEFENCE, Defence, defend
from codefend.lab.documents.document import Document
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.evaluate.perceptual import PerceptualDistance
from codefend.lab.evaluate.specimens import Specimen
from codefend.lab.experiments.store import digest_of, write_atomically
from codefend.lab.reading import Word, character_errors

__all__ = ["Observation", "Observer", "Reader"]


class Reader(Protocol):
    """Whatever reads text in pictures."""

    @property
    def name(self) -> str:
        """With its version."""

    def __call__(self, image: np.ndarray, *, text_size_px: int) -> Sequence[Word]:
        """The words in (H, W, 3) uint8, with their places."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One image under one defence and seed.

    Attributes:
        psnr_db: against the image as it was; None where nothing defends it.
        ssim: likewise.
        perceptual: likewise, and None where no network was given.
        character_errors: edits from what was read to what it says; None where it says nothing.
    """

    psnr_db: float | None
    ssim: float | None
    perceptual: float | None
    character_errors: int | None


@dataclass(frozen=True, slots=True)
class Observer:
    """Defends, compares and reads; remembers every observation.

    Attributes:
        folder: where they are kept.
        reader: reads text; documents are not read without one.
        distance: perceptual distance, where there is one.
    """

    folder: Path
    reader: Reader | None = None
    distance: PerceptualDistance | None = None

    def __call__(self, specimen: Specimen, defence: Defence, *, seed: int) -> Observation:
        """The observation; read from disk where it was made before.

        Every image draws its noise from its own pixels and the seed, so that it is the same
        whatever else is observed.

        Args:
            specimen: the image.
            defence: what it goes through.
            seed: of the defence's noise.
        """
        pixels = hashlib.sha256(specimen.image.tobytes()).hexdigest()
        noise = digest_of(pixels, specimen.image.shape, seed)
        key = digest_of(noise, defence.name, defence.setting, self._measures(specimen))
        path = self.folder / key[:2] / f"{key}.json"
        if path.exists():
            return Observation(**json.loads(path.read_text(encoding="utf-8")))
        observation = self._observe(specimen, defence, int(noise[:15], 16))
        write_atomically(path, json.dumps(asdict(observation)).encode())
        return observation

    def _measures(self, specimen: Specimen) -> list[object]:
        """All that decides an observation beside pixels and defence."""
        document = specimen.document
        if document is None or self.reader is None:
            truth = None
        else:
            lines = [[line.text, *line.box] for line in document.lines]
            truth = [self.reader.name, document.text_size_px, lines]
        return [truth, self.distance.name if self.distance else None]

    def _observe(self, specimen: Specimen, defence: Defence, noise: int) -> Observation:
        errors = None
        (seen,) = defend(defence, [specimen.image], seed=noise)
        if specimen.document is not None and self.reader is not None:
            errors = _errors(self.reader, specimen.document, seen)
        if defence is NO_DEFENCE:
            return Observation(None, None, None, errors)
        (psnr_db,), (ssim,) = fidelity([seen], [specimen.image])
        perceptual = self.distance(seen, specimen.image) if self.distance else None
        return Observation(psnr_db, ssim, perceptual, errors)


def _errors(reader: Reader, document: Document, image: np.ndarray) -> int:
    return character_errors(document, reader(image, text_size_px=document.text_size_px))
