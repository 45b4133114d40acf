"""Windows of photos that a classifier is sure of, attacked, and asked about behind defences.

T0 attacks the undefended classifier, T2 attacks it through each defence. What counts is whether it
sees behind the defence what it saw on the clean window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from codefend.lab.attacks.interface import Goal, Objective, Tier
from codefend.lab.attacks.objectives import class_loss, class_margin
from codefend.lab.attacks.pixels import attack_pixels, quantise_within
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import Defence
from codefend.lab.errors import LabError
from codefend.lab.experiments.craft import AttackBatch, craft, gradients_of
from codefend.lab.experiments.pretrained import (
    PretrainedExperiment,
    StoppingPGD,
    label_of,
    through,
)
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.responder import Responder
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.experiments.statistics import Floats, ratio
from codefend.lab.experiments.store import Store
from codefend.lab.fidelity.samples import Sample
from codefend.lab.labels import UNION
from codefend.lab.progress import progress
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.lab.world.collages import thing_of
from codefend.models.quantise import dequantise

__all__ = [
    "ATTACK",
    "LEAST_CONFIDENCE",
    "SIDE_PX",
    "ClassifierRun",
    "ClassifyWhiteBox",
    "Windows",
    "confident_windows",
]

ATTACK = "pgd"
SIDE_PX = 224
LEAST_CONFIDENCE = 0.3
_BATCH_SIZE = 32
_OBJECTIVES: dict[Goal, Callable[[ClassifierVictim, Tensor], Objective]] = {
    "language": class_loss,
    "margin": class_margin,
}
_NOISE_SEED = 0x5EED  # tells the noise of the defence from the random start of one seed


class ClassifyWhiteBox(RunSettings):
    """How defences are attacked through themselves, by the margin."""

    windows: PositiveInt = 8
    """Windows attacked; each of another thing, as far as there are so many."""
    draws: PositiveInt = 8
    """Draws of the defence's noise, averaged at every step."""
    steps: PositiveInt = 50
    """At most so many steps of PGD: a window that every fresh draw gets wrong is given up."""
    levels: tuple[int, ...] = (4,)
    """Radii, in levels of 255."""


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


@dataclass(slots=True)
class ClassifierRun:
    """One classifier, attacked and asked behind defences; whatever was made is kept.

    Attributes:
        victim: attacked, and asked behind every defence.
        windows: what about; its predictions on them, clean and undefended, are what counts.
        plan: how, undefended.
        how: how through a defence.
        responder: defends and asks.
    """

    victim: ClassifierVictim
    windows: Windows
    plan: PretrainedExperiment
    how: ClassifyWhiteBox = field(default_factory=ClassifyWhiteBox)
    responder: Responder = field(init=False)

    def __post_init__(self) -> None:
        """Opens the folder of outcomes."""
        self.responder = Responder(Store(self.plan.out / "outcomes"))

    def unaware_rows(self, defences: Sequence[Defence]) -> list[Row]:
        """Agreement on clean windows, and predictions restored on windows attacked undefended.

        Args:
            defences: the undefended among them, if it is to be reported.

        Returns:
            Rows of task ``classification``; intervals by a bootstrap over things or photos.
        """
        clean = Threat(tier=Tier.CLEAN, attack="none")
        rows: list[Row] = []
        for defence in defences:
            rows += self._rows(clean, defence, self._right(defence, self.windows.images))
        for level in self.plan.levels:
            worst: dict[int, Floats] = {}
            attack = AttackConfig(
                name=ATTACK, epsilon=level / 255, steps=self.plan.steps, seed=self.plan.seed
            )
            for config in (replace(attack, goal=goal) for goal in _OBJECTIVES):
                images = self._attacked(config)
                threat = Threat.of(config, tier=Tier.OBLIVIOUS)
                for number, defence in enumerate(progress(defences, desc=threat.attack)):
                    right = self._right(defence, images)
                    rows += self._rows(threat, defence, right)
                    worst[number] = np.minimum(worst.get(number, right), right)
            union = Threat.of(config, tier=Tier.OBLIVIOUS, label=UNION)
            for number, defence in enumerate(defences):
                rows += self._rows(union, defence, worst[number])
        return rows

    def white_box_rows(self, defences: Sequence[Defence]) -> list[Row]:
        """What every defence leaves of the predictions, under the union of its gradients.

        Args:
            defences: each attacked by all gradients that it has, the exact one alone if it has it.
        """
        rows: list[Row] = []
        for level in self.how.levels:
            for defence in defences:
                gradients = gradients_of(defence)
                threat = Threat(
                    tier=Tier.WHITE_BOX,
                    attack=UNION,
                    family="language_loss",
                    epsilon=level / 255,
                    steps=self.how.steps,
                    eot=self.how.draws,
                    gradient="+".join(gradients),
                    restarts=1,
                )
                rows += self._rows(threat, defence, self._left(defence, gradients, level))
        return rows

    def _left(self, defence: Defence, gradients: Sequence[str], level: int) -> Floats:
        """(S, N): which predictions none of the gradients took; a lost one is not attacked on."""
        images = self.windows.images[: self.how.windows]
        worst = np.ones((1, len(images)))
        for gradient in gradients:
            left = np.flatnonzero(worst.max(axis=0))
            if len(left):
                attacked = self._attacked_through(defence, gradient, level, left)
                right = self._right(defence, attacked, left)
                worst = np.broadcast_to(worst, (len(right), len(images))).copy()
                worst[:, left] = np.minimum(worst[:, left], right)
        return worst

    def _rows(self, threat: Threat, defence: Defence, right: Floats) -> list[Row]:
        """One row: the mean of (S, N), its interval over whole things or photos."""
        metric = "agreement" if threat.tier == Tier.CLEAN else "accuracy"
        mean = right.mean(axis=0)
        things = self.windows.photos[: len(mean)]
        return rows_under(
            threat,
            [("classification", metric, ratio(mean, np.ones(len(mean)), clusters=things))],
            defence=label_of(defence),
            victim=self.victim.name,
            seeds=self.plan.seeds,
        )

    def _right(
        self, defence: Defence, images: Sequence[np.ndarray], numbers: Any = slice(None)
    ) -> Floats:
        """(S, N): whether the class is the wanted one; one line for a defence without noise."""
        asked, seeds = self.victim.sha256, self.plan.seeds
        seen = self.responder(defence, images, self._classes, asked=asked, seeds=seeds)
        right = np.equal(seen, self.windows.labels.numpy()[numbers])
        return np.asarray(right, np.float64)

    def _classes(self, images: Sequence[np.ndarray]) -> list[int]:
        batches = torch.split(torch.from_numpy(np.stack(images)), _BATCH_SIZE)
        seen = torch.cat([self.victim.predict(dequantise(batch)) for batch in batches])
        return [int(each) for each in seen]

    def _attacked(self, config: AttackConfig) -> list[np.ndarray]:
        return craft(
            Store(self.plan.out / "attacked"),
            f"{self.victim.name}-{config.label}-{round(config.epsilon * 255)}",
            list(zip(self.windows.images, self.windows.labels.tolist(), strict=True)),
            partial(self._attack, config),
            made_by=[config, self.victim.sha256],
            seed=self.plan.seed,
            batch_size=_BATCH_SIZE,
        )

    def _attack(
        self, config: AttackConfig, batch: AttackBatch[tuple[np.ndarray, int]]
    ) -> list[bytes]:
        images, labels = zip(*batch.items, strict=True)
        wanted = torch.tensor(labels, device=self.victim.device)
        return attack_pixels(
            config.build(),
            images,
            _OBJECTIVES[config.goal](self.victim, wanted),
            epsilon=config.epsilon,
            generator=torch.Generator().manual_seed(batch.seed),
            device=self.victim.device,
        )

    def _attacked_through(
        self, defence: Defence, gradient: str, level: int, numbers: np.ndarray
    ) -> list[np.ndarray]:
        """One window at a time: a defence of a few seconds a step is then kept as it goes."""
        made_by = [defence.name, defence.setting, gradient, level, self.how.steps, self.how.draws]
        return craft(
            Store(self.plan.out / "attacked"),
            f"{self.victim.name} t2 {label_of(defence)} {gradient}",
            [(self.windows.images[n], int(self.windows.labels[n])) for n in numbers],
            partial(self._attack_through, defence, gradient, level / 255),
            made_by=[self.victim.sha256, *made_by],
            seed=self.plan.seed,
            batch_size=1,
        )

    def _attack_through(
        self,
        defence: Defence,
        gradient: str,
        epsilon: float,
        batch: AttackBatch[tuple[np.ndarray, int]],
    ) -> list[bytes]:
        """PGD on the margin, until no fresh draw of the defence's noise restores the class."""
        ((image, label),) = batch.items
        noise = torch.Generator().manual_seed(batch.seed ^ _NOISE_SEED)

        def margin(copies: int) -> Objective:
            return class_margin(self.victim, torch.tensor([label] * copies))

        @torch.no_grad()
        def is_lost(best: Tensor) -> bool:
            upload = dequantise(torch.from_numpy(quantise_within(best, image[None], epsilon)))
            copies = self.how.draws if defence.is_random else 1
            seen = defence.apply(upload.repeat(copies, 1, 1, 1), noise)
            return not bool((self.victim.predict(seen) == label).any())

        return attack_pixels(
            StoppingPGD(epsilon=epsilon, steps=self.how.steps, is_won=is_lost),
            [image],
            through(defence, gradient, margin, num_draws=self.how.draws, noise=noise),
            epsilon=epsilon,
            generator=torch.Generator().manual_seed(batch.seed),
        )
