"""What a defence does to one image that nobody attacked: likeness, and what can still be read.

The perceptual distance has LPIPS's form on whatever network gives feature maps. Zhang et al. 2018,
"The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1, with three
deviations: every channel has weight one, as nothing was fitted to human judgement; layers are
averaged, not summed, so that networks of any depth compare; the network is the caller's. It is
therefore not LPIPS, and its figures are never mixed with LPIPS's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codefend.lab.baselines.defence import NO_DEFENCE, Defence, defend
from codefend.lab.documents.document import Document
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.experiments.store import Store, digest_of
from codefend.lab.fidelity.samples import Sample
from codefend.lab.reading import Word, character_errors
from codefend.models.quantise import dequantise

__all__ = [
    "FeatureMaps",
    "FidelityProbe",
    "Observation",
    "PerceptualDistance",
    "Reader",
    "perceptual_distance",
]

_TINY = 1e-10  # keeps a place without any feature at zero


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


class FeatureMaps(Protocol):
    """What a network sees in images."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) float in [0, 1] to feature maps, (B, C, H', W') each."""


@torch.no_grad()
def perceptual_distance(features: FeatureMaps, images: Tensor, references: Tensor) -> Tensor:
    """How far images are from references in the features' eyes.

    At each place of each map the features are scaled to unit length; their squared difference,
    summed over channels, is averaged over places and then over maps.

    Args:
        features: the network.
        images: (B, 3, H, W) float in [0, 1].
        references: as many, of the same size.

    Returns:
        (B,), from 0 where all maps agree in direction to 4 where they are opposed.

    Raises:
        ValueError: Shapes differ, or the network gives no map.
    """
    if images.shape != references.shape:
        raise ValueError(f"shapes differ: {tuple(images.shape)}, {tuple(references.shape)}")
    pairs = zip(features(images), features(references), strict=True)
    layers = [_layer_distance(ours, theirs) for ours, theirs in pairs]
    if not layers:
        raise ValueError("the network gives no feature map")
    return torch.stack(layers).mean(dim=0)


def _layer_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    difference = (_unit(ours) - _unit(theirs)).square().sum(dim=1)
    return difference.mean(dim=(1, 2))


def _unit(features: Tensor) -> Tensor:
    """Each place's feature vector at length one."""
    values = features.float()
    return values / (values.square().sum(dim=1, keepdim=True).sqrt() + _TINY)


@dataclass(frozen=True, slots=True)
class PerceptualDistance:
    """The distance between pictures as bytes.

    Attributes:
        name: of the network and its weights; caches keep figures of different ones apart.
        features: the network, on the CPU.
    """

    name: str
    features: FeatureMaps

    def __call__(self, image: np.ndarray, reference: np.ndarray) -> float:
        """The distance of two pictures, (H, W, 3) uint8 each."""
        pixels = dequantise(torch.from_numpy(np.stack([image, reference])))
        return float(perceptual_distance(self.features, pixels[:1], pixels[1:]))


@dataclass(frozen=True, slots=True)
class FidelityProbe:
    """Defends, compares and reads; remembers every observation.

    Attributes:
        store: where they are kept.
        reader: reads text; documents are not read without one.
        distance: perceptual distance, where there is one.
    """

    store: Store
    reader: Reader | None = None
    distance: PerceptualDistance | None = None

    def __call__(self, sample: Sample, defence: Defence, *, seed: int) -> Observation:
        """The observation; read from disk where it was made before.

        Every image draws its noise from its own pixels and the seed, so that it is the same
        whatever else is observed.

        Args:
            sample: the image.
            defence: what it goes through.
            seed: of the defence's noise.
        """
        pixels = hashlib.sha256(sample.image.tobytes()).hexdigest()
        noise = digest_of(pixels, sample.image.shape, seed)
        key = digest_of(noise, defence.name, defence.setting, self._measures(sample))
        seed = int(noise[:15], 16)
        found = self.store.json(
            f"{key[:2]}/{key}", lambda: asdict(self._observe(sample, defence, seed))
        )
        return Observation(**found)

    def _measures(self, sample: Sample) -> list[object]:
        """All that decides an observation beside pixels and defence."""
        document = sample.document
        if document is None or self.reader is None:
            truth = None
        else:
            lines = [[line.text, *line.box] for line in document.lines]
            truth = [self.reader.name, document.text_size_px, lines]
        return [truth, self.distance.name if self.distance else None]

    def _observe(self, sample: Sample, defence: Defence, noise: int) -> Observation:
        errors = None
        (seen,) = defend(defence, [sample.image], seed=noise)
        if sample.document is not None and self.reader is not None:
            errors = _errors(self.reader, sample.document, seen)
        if defence is NO_DEFENCE:
            return Observation(None, None, None, errors)
        (psnr_db,), (ssim,) = fidelity([seen], [sample.image])
        perceptual = self.distance(seen, sample.image) if self.distance else None
        return Observation(psnr_db, ssim, perceptual, errors)


def _errors(reader: Reader, document: Document, image: np.ndarray) -> int:
    return character_errors(document, reader(image, text_size_px=document.text_size_px))
