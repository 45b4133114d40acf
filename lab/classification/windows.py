"""What a classifier is asked about: windows of photos that it is sure of before any attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.fidelity.samples import Sample
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.lab.world.collages import thing_of
from codefend.models.quantise import dequantise

__all__ = ["LEAST_CONFIDENCE", "SIDE_PX", "Windows", "confident_windows"]

SIDE_PX = 224
LEAST_CONFIDENCE = 0.3
_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of photos, all of one size.

    Attributes:
        images: (224, 224, 3) uint8 each.
        labels: (N,) int64, what the classifier makes of them.
        photos: (N,) the photo, or the pictured thing, of each; its windows are one cluster.
        num_tried: how many were looked at.
        num_sure: of how many of them the classifier was sure; all of these where None.
    """

    images: list[np.ndarray]
    labels: torch.Tensor
    photos: np.ndarray
    num_tried: int
    num_sure: int | None = None

    @property
    def coverage(self) -> str:
        """How much of what was looked at is asked about, in words."""
        num_photos = len(np.unique(self.photos))
        sure = f"{self.num_sure or len(self.images)} of {self.num_tried} windows"
        return f"{sure}; asked about {len(self.images)}, of {num_photos} things or photos"


def confident_windows(
    photos: Sequence[Sample],
    classifier: ClassifierVictim,
    *,
    per_photo: int,
    seed: int,
    most: int | None = None,
) -> Windows:
    """Square windows at scales from 224 pixels to the whole, where one class is likely enough.

    The filter looks at clean images alone, so that no attack or defence can move it.

    Args:
        photos: where they are cut from; those with a side below 224 pixels are passed over.
        classifier: who must be sure.
        per_photo: windows looked at in each photo.
        seed: of places and scales.
        most: keep so many at most: of every thing its first, then of every thing its second, ….

    Raises:
        LabError: The classifier is sure of none.
    """
    rng = np.random.default_rng(seed)
    names = dict.fromkeys(thing_of(photo.cluster) for photo in photos)
    things = {name: number for number, name in enumerate(names)}
    looked: list[tuple[int, np.ndarray]] = [
        (things[thing_of(photo.cluster)], _window(photo.image, rng))
        for photo in photos
        if min(photo.image.shape[:2]) >= SIDE_PX
        for _ in range(per_photo)
    ]
    sure: list[int] = []
    labels: list[int] = []
    for start in range(0, len(looked), _BATCH_SIZE):
        batch = np.stack([image for _, image in looked[start : start + _BATCH_SIZE]])
        with torch.no_grad():
            chances = classifier.chances(classifier.logits(dequantise(torch.from_numpy(batch))))
        highest, classes = chances.max(dim=1)
        sure += [start + n for n, share in enumerate(highest) if share >= LEAST_CONFIDENCE]
        labels += classes.tolist()
    if not sure:
        raise LabError(f"{classifier.name} is sure of none of {len(looked)} windows")
    turns = _in_turns([looked[number][0] for number in sure])
    chosen = [sure[place] for place in turns[:most]]
    return Windows(
        [looked[number][1] for number in chosen],
        torch.tensor([labels[number] for number in chosen]),
        np.array([looked[number][0] for number in chosen]),
        len(looked),
        len(sure),
    )


def _in_turns(clusters: Sequence[int]) -> list[int]:
    """Places in an order that takes one of each cluster, then the next of each."""
    turn = {place: clusters[:place].count(cluster) for place, cluster in enumerate(clusters)}
    return sorted(turn, key=turn.__getitem__)


def _window(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    side = round(float(np.exp(rng.uniform(np.log(SIDE_PX), np.log(min(height, width))))))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    window = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(window.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
