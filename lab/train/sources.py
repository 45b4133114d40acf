"""What purifiers learn from, in every step: stored pairs, clean images, the encoder that guides.

Here pairs also get from what a command line names (``VICTIM=FOLDER,BATCH`` of pairs that are there,
``VICTIM=PAIRS,BATCH`` of pairs to be made, in one process or several) to a source of training.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codefend.lab.errors import LabError
from codefend.lab.folders.source import open_data
from codefend.lab.precision import compute_dtype
from codefend.lab.progress import progress
from codefend.lab.train.crops import PhotoSource, clean_crops
from codefend.lab.train.pairs import (
    Pairs,
    PairSettings,
    load_pairs,
    make_folder_pairs,
    make_pairs,
    make_photo_pairs,
    num_batches_in,
)
from codefend.lab.victims.classifier import (
    TRAINING_CLASSIFIER,
    ClassifierVictim,
    load_classifier,
)
from codefend.lab.victims.victim import Victim, load_victim
from codefend.lab.world.compose import World

__all__ = [
    "FeatureExtractor",
    "PairOrder",
    "PairSource",
    "SourceBatches",
    "TrainingData",
    "TrainingSource",
    "load_pair_source",
    "make_pairs_of",
    "make_pairs_together",
]

SCALE_RANGE = (0.5, 1.1)
_CLASSIFIERS = TRAINING_CLASSIFIER.rstrip("0123456789")


class FeatureExtractor(Protocol):
    """A frozen vision encoder."""

    def encoder_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to (B, places, C), differentiably."""
        ...


class TrainingSource(ABC):
    """Images of every step: stored pairs, or pictures that are attacked as the purifier learns.

    Attributes:
        weight: Of its loss in the whole.
        is_fixed: Whether its step is the same computation every time: then a GPU captures it.
    """

    weight: float
    is_fixed = True

    @abstractmethod
    def batch(
        self, step: int, photos: PhotoSource, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Clean and attacked images of one step, (B, 3, H, W) uint8 each."""


@dataclass(frozen=True, kw_only=True)
class PairSource(TrainingSource):
    """Pairs of one size, the encoder that they were made on, and their part in every step.

    Attributes:
        pairs: Attacked–clean pairs.
        extractor: Whose features shall come back.
        batch_size: Images a step.
        adversarial_share: Share of them that are attacked anew, through the purifier as it is.
        clean_share: Share of them that are clean on both sides.
        crop_share: Share of them that are clean crops of photos and text.
        weight: Of its loss in the whole.
    """

    pairs: Pairs
    extractor: FeatureExtractor
    batch_size: int
    adversarial_share: float = 0.0
    clean_share: float = 0.25
    crop_share: float = 0.125
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares that are none, or that together are more than the whole."""
        shares = (self.adversarial_share, self.clean_share, self.crop_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"shares must be at least 0, and together at most 1, not {shares}")

    @property
    def adversarial(self) -> slice:
        """The rows of a batch that are attacked through the purifier."""
        first = round(self.batch_size * self.clean_share)
        return slice(first, first + round(self.batch_size * self.adversarial_share))

    def batch(
        self, step: int, photos: PhotoSource, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """See ``TrainingSource.batch``; perturbations are rescaled, and images mirrored."""
        num_crops = round(self.batch_size * self.crop_share)
        rows = torch.from_numpy(
            rng.integers(len(self.pairs.clean), size=self.batch_size - num_crops)
        )
        clean = self.pairs.clean[rows]
        perturbation = self.pairs.attacked[rows].float() - clean
        scale = torch.from_numpy(rng.uniform(*SCALE_RANGE, size=len(rows))).float()
        scale[: round(self.batch_size * self.clean_share)] = 0
        attacked = (clean + scale.view(-1, 1, 1, 1) * perturbation).round().clamp(0, 255)
        crops = clean_crops(photos, num_crops, clean.shape[-1], rng)
        clean, attacked = torch.cat([clean, crops]), torch.cat([attacked.to(torch.uint8), crops])
        mirrored = torch.from_numpy(rng.random(len(clean)) < 0.5).view(-1, 1, 1, 1)
        return (
            torch.where(mirrored, clean.flip(-1), clean),
            torch.where(mirrored, attacked.flip(-1), attacked),
        )


@dataclass(frozen=True, slots=True)
class SourceBatches:
    """A batch of every source, by step.

    Attributes:
        photos: For crops that nobody attacked.
        sources: Each gives its own images.
        seed: Decides, with the step, what is drawn.
    """

    photos: PhotoSource
    sources: Sequence[TrainingSource]
    seed: int

    def __getitem__(self, step: int) -> list[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng([self.seed, 6, step])
        return [source.batch(step, self.photos, rng) for source in self.sources]


def _is_classifier(victim: str) -> bool:
    """Whether this names an ImageNet classifier and not an MLLM."""
    return victim.startswith(_CLASSIFIERS)


def _load_extractor(victim: str) -> Victim | ClassifierVictim:
    """What pairs are made on: an MLLM in the precision that is fast on its device, or a classifier.

    Raises:
        LabError: For a classifier that is held out.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not _is_classifier(victim):
        return load_victim(victim, device=device).astype(compute_dtype(torch.device(device)))
    if victim != TRAINING_CLASSIFIER:
        raise LabError(f"purifiers learn from {TRAINING_CLASSIFIER} alone, not from {victim}")
    return load_classifier(victim, device=device, resized=False)


def load_pair_source(text: str, main_batch_size: int, **shares: float) -> PairSource:
    """A source from ``VICTIM=FOLDER,BATCH``.

    Every image weighs alike, whichever source it comes from.

    Args:
        text: whose encoder guides, where the pairs are, and how many images a step.
        main_batch_size: images a step of the source that has weight 1.
        shares: fields of ``PairSource``.

    Raises:
        LabError: the words mean nothing, there are no pairs, or the shares are too large.
    """
    victim, _, rest = text.partition("=")
    folder, _, number = rest.rpartition(",")
    if not (victim and folder and number.isdecimal() and int(number) > 0):
        raise LabError(f"--beside must be VICTIM=FOLDER,BATCH, not {text}")
    try:
        return PairSource(
            pairs=load_pairs(Path(folder)),
            extractor=_load_extractor(victim),
            batch_size=int(number),
            weight=int(number) / main_batch_size,
            **shares,
        )
    except ValueError as error:
        raise LabError(str(error)) from error


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Where unattacked pictures come from: the embedded world, or a user's own.

    Attributes:
        world: File of the embedded world.
        data: Folder or dataset in its place, or nothing.
        size_px: Side that its pictures are brought to before they are attacked.
    """

    world: Path
    data: str = ""
    size_px: int = 1

    def photos(self) -> PhotoSource:
        """Where crops come from that nobody attacked; their size is that of the pairs.

        Raises:
            LabError: There are no pictures of the train split.
        """
        if not self.data:
            return World(self.world)
        images = open_data(self.data, size_px=1)
        images.first("train", 1)
        return images


def make_pairs_of(victim: str, folder: Path, data: TrainingData, settings: PairSettings) -> None:
    """Attack what suits the victim: crops of photos for a classifier, else pictures or scenes.

    Scenes are composed on the device that attacks them.

    Args:
        victim: Model directory, hub id or classifier.
        folder: Where the pairs go.
        data: What is attacked.
        settings: How many, and how.
    """
    loaded = _load_extractor(victim)
    if isinstance(loaded, ClassifierVictim):
        make_photo_pairs(data.photos(), loaded, folder, settings)
    elif data.data:
        make_folder_pairs(open_data(data.data, data.size_px), loaded, folder, settings)
    else:
        make_pairs(World(data.world, device=loaded.device), loaded, folder, settings)


@dataclass(frozen=True, slots=True)
class PairOrder:
    """A victim of a recipe, and how much of it is learned.

    Attributes:
        victim: Model directory, hub id or the classifier that training may see.
        num_pairs: Pairs to make.
        batch_size: Images of it in every step of the purifier's training.
    """

    victim: str
    num_pairs: int
    batch_size: int

    @classmethod
    def parse(cls, text: str) -> PairOrder:
        """From ``VICTIM=PAIRS,BATCH``.

        Raises:
            LabError: The words mean nothing.
        """
        match = re.fullmatch(r"(.+)=([1-9]\d*),([1-9]\d*)", text)
        if match is None:
            raise LabError(f"--source must be VICTIM=PAIRS,BATCH, not {text}")
        return cls(match[1], int(match[2]), int(match[3]))

    def folder(self, runs: Path) -> Path:
        """Where its pairs are kept: other pairs are never taken for them."""
        name = re.sub(r"[^a-zA-Z0-9]+", "-", self.victim).strip("-")
        return runs / f"pairs-{name}"


def make_pairs_together(
    orders: Sequence[PairOrder],
    runs: Path,
    data: TrainingData,
    settings: PairSettings,
    *,
    processes: int,
) -> None:
    """Make all pairs of a recipe; what is there already is kept, so an interrupted run resumes.

    Args:
        orders: Victims and numbers of pairs.
        runs: Where each one's folder is.
        data: What is attacked.
        settings: How; each order has its own number of pairs.
        processes: How many fill the folders together; each gets its share of the cores.
    """
    if processes == 1:
        _make_share(orders, runs, data, settings)
        return
    total = sum(-(-order.num_pairs // settings.batch_size) for order in orders)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, context, _start, (processes,)) as pool,
        progress(total=total, desc="pairs", unit="batch") as bar,
    ):
        waiting = {
            pool.submit(_make_share, orders, runs, data, settings.replace(share=(part, processes)))
            for part in range(processes)
        }
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_EXCEPTION)
            bar.update(sum(num_batches_in(order.folder(runs)) for order in orders) - bar.n)
            for share in done:
                share.result()


def _start(processes: int) -> None:
    """The parent shows the progress of all; each computes on its own cores."""
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _make_share(
    orders: Sequence[PairOrder], runs: Path, data: TrainingData, settings: PairSettings
) -> None:
    for order in orders:
        own = settings.replace(num_pairs=order.num_pairs)
        make_pairs_of(order.victim, order.folder(runs), data, own)
