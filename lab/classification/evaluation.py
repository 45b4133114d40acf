"""Is what a classifier sees on the clean window what it sees behind the defence? T0 and T2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codefend.lab.attacks.interface import Goal, Objective, Tier
from codefend.lab.attacks.objectives import class_loss, class_margin
from codefend.lab.attacks.pixels import attack_pixels
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import Defence, defend
from codefend.lab.classification.windows import Windows
from codefend.lab.evaluate.kept import kept_images
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.statistics import Estimate, bootstrap
from codefend.lab.experiments.store import digest_of, write_atomically
from codefend.lab.labels import UNION
from codefend.lab.progress import progress
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.models.quantise import dequantise

__all__ = ["OBJECTIVES", "ClassificationPlan", "Scorer", "evaluate_classifier"]

TASK = "classification"
_BATCH_SIZE = 32
OBJECTIVES: dict[Goal, Callable[[ClassifierVictim, torch.Tensor], Objective]] = {
    "language": class_loss,
    "margin": class_margin,
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationPlan:
    """How the classifier is attacked.

    Attributes:
        attack: name; by cross-entropy and by margin, each from one random start.
        epsilons: radii, as fractions of the range.
        steps: gradient steps.
        seeds: of a random defence's noise.
        seed: of random starts.
    """

    attack: str = "pgd"
    epsilons: tuple[float, ...] = (4 / 255, 8 / 255)
    steps: int = 50
    seeds: int = 3
    seed: int = 0


@dataclass(slots=True)
class Scorer:
    """Which predictions are those of the clean, undefended window; kept on disk: it resumes.

    Attributes:
        victim: asked behind every defence.
        folder: where outcomes are kept.
        shared: what the first parts of chains made of the images asked about last.
    """

    victim: ClassifierVictim
    folder: Path
    shared: dict[tuple[str, str, str, int], list[np.ndarray]] = field(default_factory=dict)

    def __call__(
        self, defence: Defence, images: Sequence[np.ndarray], labels: torch.Tensor, seeds: int
    ) -> Floats:
        """(S, N): whether the class is the wanted one; one row for a defence without noise."""
        asked = digest_of([image.tobytes().hex() for image in images])
        found = []
        for seed in range(seeds if defence.is_random else 1):
            key = digest_of(
                asked, self.victim.sha256, defence.name, defence.setting, labels.tolist(), seed
            )
            path = self.folder / "outcomes" / f"{key}.txt"
            if not path.exists():
                classes = self._classes(self._defended(defence, asked, images, seed))
                right = (classes == labels).int().tolist()
                write_atomically(path, "".join(map(str, right)).encode())
            found.append([float(digit) for digit in path.read_text()])
        return np.array(found)

    def forget(self) -> None:
        """Frees what chains share: other images are next."""
        self.shared.clear()

    def _defended(
        self, defence: Defence, asked: str, images: Sequence[np.ndarray], seed: int
    ) -> list[np.ndarray]:
        for number, part in enumerate(defence.parts or (defence,)):
            if number == 0 and part.is_random:
                key = (asked, part.name, part.setting, seed)
                if key not in self.shared:
                    self.shared[key] = defend(part, images, seed=seed)
                images = self.shared[key]
            else:
                images = defend(part, images, seed=seed)
        return list(images)

    def _classes(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack(images))
        starts = range(0, len(pixels), _BATCH_SIZE)
        batches = [dequantise(pixels[start : start + _BATCH_SIZE]) for start in starts]
        return torch.cat([self.victim.predict(batch) for batch in batches]).cpu()


def evaluate_classifier(
    victim: ClassifierVictim,
    windows: Windows,
    defences: Sequence[Defence],
    plan: ClassificationPlan,
    out: Path,
) -> list[Row]:
    """Agreement on clean windows, and predictions restored on attacked ones.

    Args:
        victim: asked, and attacked while undefended.
        windows: what about.
        defences: the undefended among them, if it is to be reported.
        plan: how.
        out: where attacked images and outcomes are kept; an interrupted run resumes from there.

    Returns:
        Rows of task ``classification``; intervals by a bootstrap over things or photos.
    """
    rows: list[Row] = []
    scorer = Scorer(victim, out)

    def report(defence: Defence, threat: Threat, metric: str, right: Floats) -> None:
        measures = [(TASK, metric, by_thing(right, windows.photos))]
        rows.extend(
            rows_under(
                threat, measures, defence=label_of(defence), victim=victim.name, seeds=plan.seeds
            )
        )

    clean = Threat(tier=Tier.CLEAN, attack="none")
    for defence in defences:
        right = scorer(defence, windows.images, windows.labels, plan.seeds)
        report(defence, clean, "agreement", right)
    for epsilon in plan.epsilons:
        worst: dict[int, Floats] = {}
        for goal in OBJECTIVES:
            config = _config(plan, epsilon, goal)
            images = _attacked(victim, windows, config, out)
            threat = Threat.of(config, tier=Tier.OBLIVIOUS, label=config.label)
            scorer.forget()
            for number, defence in enumerate(progress(defences, desc=threat.attack)):
                right = scorer(defence, images, windows.labels, plan.seeds)
                report(defence, threat, "accuracy", right)
                worst[number] = np.minimum(worst.get(number, right), right)
        union = Threat.of(_config(plan, epsilon, "margin"), tier=Tier.OBLIVIOUS, label=UNION)
        for number, defence in enumerate(defences):
            report(defence, union, "accuracy", worst[number])
    return rows


def label_of(defence: Defence) -> str:
    """A defence and its setting, without hashes, as rows name it."""
    setting = " ".join(w for w in defence.setting.split() if not w.startswith("weights="))
    return f"{defence.name} {setting}".strip()


def _config(plan: ClassificationPlan, epsilon: float, goal: Goal) -> AttackConfig:
    config = AttackConfig(name=plan.attack, epsilon=epsilon, steps=plan.steps, seed=plan.seed)
    return replace(config, goal=goal)


def chunks(windows: Windows, label: str) -> Iterable[tuple[int, slice]]:
    """Numbered batches of windows, with progress under a label."""
    starts = range(0, len(windows.images), _BATCH_SIZE)
    for number, start in enumerate(progress(starts, desc=label, unit="batch")):
        yield number, slice(start, start + _BATCH_SIZE)


def _attacked(
    victim: ClassifierVictim, windows: Windows, config: AttackConfig, out: Path
) -> list[np.ndarray]:
    label = f"{victim.name}-{config.label}-{round(config.epsilon * 255)}"
    images: list[np.ndarray] = []
    for number, rows in chunks(windows, label):
        chunk = windows.images[rows]
        labels = windows.labels[rows].to(victim.device)
        seeded = replace(config, seed=1_000_003 * config.seed + number)
        pixels = [image.tobytes().hex() for image in chunk]
        key = digest_of(asdict(seeded), victim.sha256, labels.tolist(), pixels)

        def make(
            chunk: list[np.ndarray] = chunk,
            labels: torch.Tensor = labels,
            seeded: AttackConfig = seeded,
        ) -> list[bytes]:
            return attack_pixels(
                seeded.build(),
                chunk,
                OBJECTIVES[seeded.goal](victim, labels),
                epsilon=seeded.epsilon,
                generator=torch.Generator().manual_seed(seeded.seed),
                device=victim.device,
            )

        images += kept_images(out / "attacked" / label / key, len(chunk), make)
    return images


def by_thing(right: Floats, things: NDArray[np.int64]) -> Estimate:
    """The mean of (S, N), its interval over whole things or photos."""
    mean = right.mean(axis=0)
    totals = np.array(
        [[mean[things == thing].sum(), (things == thing).sum()] for thing in np.unique(things)]
    )
    return bootstrap(totals, lambda sums: np.asarray(sums[..., 0] / sums[..., 1]), n=len(mean))
