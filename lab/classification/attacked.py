"""A classifier attacked on windows of photos, and asked about them behind defences.

T0 attacks the undefended classifier, T2 attacks it through each defence. What counts is whether it
sees behind the defence what it saw on the clean window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from codefend.lab.attacks.interface import Goal, Objective, Tier
from codefend.lab.attacks.objectives import class_loss, class_margin
from codefend.lab.attacks.pixels import attack_pixels, quantise_within
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import Defence
from codefend.lab.classification.windows import Windows
from codefend.lab.evaluate.uploads import Uploads
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
from codefend.lab.labels import UNION
from codefend.lab.progress import progress
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.models.quantise import dequantise

__all__ = [
    "ATTACK",
    "GAIN",
    "ClassifierRun",
    "ClassifyWhiteBox",
]

ATTACK, GAIN = "pgd", "gain"
_THROUGH_AT_ONCE = 8  # on a GPU, times the draws of a defence's noise
_AT_ONCE, _AT_ONCE_ON_CPU = 32, 4  # 32 leave a CPU's cache: a step then takes a fifth longer
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

    def unaware_rows(
        self, defences: Sequence[Defence], against: Defence | None = None
    ) -> list[Row]:
        """Agreement on clean windows, and predictions restored on windows attacked undefended.

        Args:
            defences: the undefended among them, if it is to be reported.
            against: one of them that all others are compared with, window by window.

        Returns:
            Rows of task ``classification``, gains among them; intervals by a bootstrap over things
            or photos.
        """
        clean = Threat(tier=Tier.CLEAN, attack="none")
        found = {defence: self._right(defence, self.windows.images) for defence in defences}
        rows = self._compared(clean, found, against)
        for level in self.plan.levels:
            worst: dict[Defence, Floats] = {}
            for uploads in self.unaware(level):
                for defence in progress(defences, desc=uploads.threat.attack):
                    right = self._right(defence, uploads.images)
                    rows += self._rows(uploads.threat, defence, right)
                    worst[defence] = np.minimum(worst.get(defence, right), right)
            rows += self._compared(replace(uploads.threat, attack=UNION), worst, against)
        return rows

    def unaware(self, level: int) -> Iterator[Uploads]:
        """All windows attacked undefended (T0), by each objective in turn.

        Args:
            level: the radius, in levels of 255.
        """
        for goal in _OBJECTIVES:
            config = AttackConfig(
                name=ATTACK,
                epsilon=level / 255,
                steps=self.plan.steps,
                seed=self.plan.seed,
                goal=goal,
            )
            threat = Threat.of(config, tier=Tier.OBLIVIOUS)
            yield Uploads(threat, self._attacked(config), self.windows.images)

    def _compared(
        self, threat: Threat, found: Mapping[Defence, Floats], against: Defence | None
    ) -> list[Row]:
        """What each defence leaves, and how much more than the one that all are compared with."""
        rows: list[Row] = []
        for defence, right in found.items():
            rows += self._rows(threat, defence, right)
            if against not in (None, defence):
                rows += self._rows(threat, defence, right - found[against], metric=GAIN)
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

    def _rows(
        self, threat: Threat, defence: Defence, right: Floats, *, metric: str = ""
    ) -> list[Row]:
        """One row: the mean of (S, N), its interval over whole things or photos."""
        metric = metric or ("agreement" if threat.tier == Tier.CLEAN else "accuracy")
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

    @property
    def _at_once(self) -> int:
        """Images that the classifier sees together."""
        return _AT_ONCE_ON_CPU if self.victim.device.type == "cpu" else _AT_ONCE

    def _classes(self, images: Sequence[np.ndarray]) -> list[int]:
        batches = torch.split(torch.from_numpy(np.stack(images)), self._at_once)
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
            batch_size=self._at_once,
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
        """On a CPU one window at a time: what takes seconds a step is then kept as it goes."""
        made_by = [defence.name, defence.setting, gradient, level, self.how.steps, self.how.draws]
        return craft(
            Store(self.plan.out / "attacked"),
            f"{self.victim.name} t2 {label_of(defence)} {gradient}",
            [(self.windows.images[n], int(self.windows.labels[n])) for n in numbers],
            partial(self._attack_through, defence, gradient, level / 255),
            made_by=[self.victim.sha256, *made_by],
            seed=self.plan.seed,
            batch_size=1 if self.victim.device.type == "cpu" else _THROUGH_AT_ONCE,
        )

    def _attack_through(
        self,
        defence: Defence,
        gradient: str,
        epsilon: float,
        batch: AttackBatch[tuple[np.ndarray, int]],
    ) -> list[bytes]:
        """PGD on the margin, until no fresh draw of the defence's noise restores the class."""
        images, labels = zip(*batch.items, strict=True)
        wanted = torch.tensor(labels, device=self.victim.device)
        noise = torch.Generator().manual_seed(batch.seed ^ _NOISE_SEED)

        def margin(copies: int) -> Objective:
            return class_margin(self.victim, wanted.repeat(copies))

        @torch.no_grad()
        def is_lost(best: Tensor) -> Tensor:
            uploads = quantise_within(best, np.stack(images), epsilon)
            copies = self.how.draws if defence.is_random else 1
            repeated = dequantise(torch.from_numpy(uploads)).to(wanted.device)
            seen = defence.apply(repeated.repeat(copies, 1, 1, 1), noise)
            is_kept = self.victim.predict(seen).to(wanted.device) == wanted.repeat(copies)
            return ~is_kept.view(copies, len(images)).any(dim=0)

        return attack_pixels(
            StoppingPGD(epsilon=epsilon, steps=self.how.steps, is_won=is_lost),
            images,
            through(defence, gradient, margin, num_draws=self.how.draws, noise=noise),
            epsilon=epsilon,
            generator=torch.Generator().manual_seed(batch.seed),
            device=self.victim.device,
        )
