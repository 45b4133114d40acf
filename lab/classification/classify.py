"""``codefend-lab classify``: what a purifier restores of a pretrained classifier's sight.

T0 attacks the undefended classifier, T2 attacks it through each defence. What counts is whether it
sees behind the defence what it saw on the clean window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import typer
from pydantic import Field, PositiveInt
from torch import Tensor

from codefend.lab.attacks.interface import Goal, Objective, Tier
from codefend.lab.attacks.objectives import class_loss, class_margin
from codefend.lab.attacks.pixels import attack_pixels, quantise_within
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import Defence
from codefend.lab.classification.report import draw_curves, tables_of
from codefend.lab.classification.windows import (
    LEAST_CONFIDENCE,
    SIDE_PX,
    Windows,
    confident_windows,
)
from codefend.lab.encoders.encoder import CLASSIFIERS, load_any_classifier
from codefend.lab.experiments.craft import Batch, craft, gradients_of
from codefend.lab.experiments.pretrained import (
    PretrainedExperiment,
    StoppingPGD,
    label_of,
    named,
    through,
)
from codefend.lab.experiments.report import Row, Threat, provenance, rows_under, write_report
from codefend.lab.experiments.responder import Responder
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.experiments.statistics import Floats, ratio
from codefend.lab.experiments.store import Store
from codefend.lab.fidelity.samples import folder_samples, photo_samples
from codefend.lab.labels import UNION
from codefend.lab.plots.style import save_small
from codefend.lab.progress import progress
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.lab.world.compose import World
from codefend.models.quantise import dequantise

__all__ = ["ClassifierRun", "Classify", "ClassifyWhiteBox"]

_TASK, _ATTACK = "classification", "pgd"
_BATCH_SIZE = 32
_OBJECTIVES: dict[Goal, Callable[[ClassifierVictim, Tensor], Objective]] = {
    "language": class_loss,
    "margin": class_margin,
}
_NOISE_SEED = 0x5EED  # tells the noise of the defence from the random start of one seed

Window = tuple[np.ndarray, int]
"""(H, W, 3) uint8, and what the classifier made of it clean."""


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


class Classify(PretrainedExperiment):
    """Attack pretrained classifiers on windows of photos, and count the predictions that survive.

    T0: the attacker has the classifier's gradients and does not know of the purifier. T2: it has
    the defence's too. Interrupted, it resumes: attacked images are kept in the report's folder.
    """

    name: ClassVar[str] = "classify"

    victims: tuple[str, ...] = Field(
        CLASSIFIERS[:2], description=f"Classifiers, comma-separated: of {', '.join(CLASSIFIERS)}."
    )
    world: Path = Path("work/world.npz")
    """World file, for its test photos."""
    photos: Path | None = None
    """Folder of photos or collages, instead of the world's."""
    per_photo: PositiveInt = 32
    """Windows looked at in each photo."""
    most: PositiveInt = 320
    """Windows kept at most, things in turns."""
    white_box: ClassifyWhiteBox = ClassifyWhiteBox()
    device: str = ""
    """Torch device; found where empty."""

    def run(self) -> None:
        """Writes the report and its plot."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        photos = folder_samples(self.photos) if self.photos else photo_samples(World(self.world))
        networks = self.load_networks(device=device)
        asked, adaptive = named(self.defences, networks), named(self.through, networks)
        rows: list[Row] = []
        notes = [self._notes()]
        for name in self.victims:
            victim = load_any_classifier(name, device=device, folder=self.encoders)
            windows = confident_windows(
                photos, victim, per_photo=self.per_photo, seed=self.seed, most=self.most
            )
            notes.append(f"- {name}: sure of {windows.coverage}.")
            run = ClassifierRun(victim, windows, self)
            rows += [*run.unaware_rows(asked), *run.white_box_rows(adaptive)]
        weights = {name: sha256 for name, (_, sha256) in networks.items()}
        meta = provenance(seed=self.seed, weights=weights, device=device, settings=self)
        tables = [table.markdown() for table in tables_of(rows, self.victims)]
        typer.echo(write_report(self.out, meta, rows, [*tables, "\n".join(notes)]))
        save_small(draw_curves(rows, self.victims), self.out / "trade-off.png")

    def _notes(self) -> str:
        """What a reader of the tables must know."""
        training, *held_out = CLASSIFIERS
        notes = (
            f"T0: {_ATTACK}, {self.steps} steps, by cross-entropy and by margin, on the undefended "
            "classifier; each figure is the share of windows whose class is that of the clean, "
            f"undefended window, worst of both attacks. Windows are {SIDE_PX} pixels wide; only "
            f"those whose likeliest class has at least {LEAST_CONFIDENCE:.0%} unattacked are asked "
            "about, chosen before any attack. Brackets are 95 % intervals by a bootstrap over "
            f"whole things or photos. {training} may train a purifier; {' and '.join(held_out)} "
            f"never do, the first of them {training}'s own family, the second another one. At "
            "equal clean agreement the best setting of each kind of defence is read off the same "
            "windows, which flatters all kinds alike, and those with more settings a little more."
        )
        if not self.through:
            return notes
        how = self.white_box
        return (
            f"{notes}\n\nT2: {how.windows} windows, attacked through the defence by the margin, "
            f"at most {how.steps} steps of PGD on the mean of {how.draws} draws of its noise; "
            "exact gradients where there are any, else the union of the surrogate's and BPDA's. "
            "So few windows tell a defence that stands from one that falls, and no more."
        )


@dataclass(slots=True)
class ClassifierRun:
    """One classifier, attacked and asked behind defences; whatever was made is kept.

    Attributes:
        victim: attacked, and asked behind every defence.
        windows: what about; its predictions on them, clean and undefended, are what counts.
        plan: how.
        responder: defends and asks.
    """

    victim: ClassifierVictim
    windows: Windows
    plan: Classify
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
            for goal in _OBJECTIVES:
                config = AttackConfig(
                    name=_ATTACK,
                    goal=goal,
                    epsilon=level / 255,
                    steps=self.plan.steps,
                    seed=self.plan.seed,
                )
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
        how = self.plan.white_box
        rows: list[Row] = []
        for level in how.levels:
            for defence in defences:
                gradients = gradients_of(defence)
                threat = Threat(
                    tier=Tier.WHITE_BOX,
                    attack=UNION,
                    family="language_loss",
                    epsilon=level / 255,
                    steps=how.steps,
                    eot=how.draws,
                    gradient="+".join(gradients),
                    restarts=1,
                )
                rows += self._rows(threat, defence, self._left(defence, gradients, level))
        return rows

    def _left(self, defence: Defence, gradients: Sequence[str], level: int) -> Floats:
        """(S, N): which predictions none of the gradients took; a lost one is not attacked on."""
        images = self.windows.images[: self.plan.white_box.windows]
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
            [(_TASK, metric, ratio(mean, np.ones(len(mean)), clusters=things))],
            defence=label_of(defence),
            victim=self.victim.name,
            seeds=self.plan.seeds,
        )

    def _right(
        self, defence: Defence, images: Sequence[np.ndarray], numbers: np.ndarray | None = None
    ) -> Floats:
        """(S, N): whether the class is the wanted one; one line for a defence without noise."""
        wanted = self.windows.labels.numpy()
        seen = self.responder(
            defence, images, self._classes, asked=self.victim.sha256, seeds=self.plan.seeds
        )
        right = np.array(seen) == (wanted if numbers is None else wanted[numbers])
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

    def _attack(self, config: AttackConfig, batch: Batch[Window]) -> list[bytes]:
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
        how = self.plan.white_box
        made_by = [defence.name, defence.setting, gradient, level, how.steps, how.draws]
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
        self, defence: Defence, gradient: str, epsilon: float, batch: Batch[Window]
    ) -> list[bytes]:
        """PGD on the margin, until no fresh draw of the defence's noise restores the class."""
        ((image, label),) = batch.items
        how = self.plan.white_box
        noise = torch.Generator().manual_seed(batch.seed ^ _NOISE_SEED)

        def margin(copies: int) -> Objective:
            return class_margin(self.victim, torch.tensor([label] * copies))

        @torch.no_grad()
        def is_lost(best: Tensor) -> bool:
            upload = dequantise(torch.from_numpy(quantise_within(best, image[None], epsilon)))
            copies = how.draws if defence.is_random else 1
            seen = defence.apply(upload.repeat(copies, 1, 1, 1), noise)
            return not bool((self.victim.predict(seen) == label).any())

        return attack_pixels(
            StoppingPGD(epsilon=epsilon, steps=how.steps, is_won=is_lost),
            [image],
            through(defence, gradient, margin, num_draws=how.draws, noise=noise),
            epsilon=epsilon,
            generator=torch.Generator().manual_seed(batch.seed),
        )
