"""T0 on a classifier: is what it sees on the clean window what it sees behind the defence?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lab.attacks.classification import class_loss, class_margin
from lab.attacks.interface import Goal, Objective, Tier
from lab.attacks.pixels import attack_pixels
from lab.attacks.registry import AttackConfig
from lab.baselines.defence import Defence, defend
from lab.classification.windows import Windows
from lab.evaluate.files import digest_of
from lab.evaluate.kept import kept_images
from lab.evaluate.report import Row, Threat, rows_under
from lab.evaluate.statistics import Estimate, bootstrap
from lab.labels import UNION
from lab.progress import progress
from lab.victims.classifier import ClassifierVictim
from models.quantise import dequantise

__all__ = ["ClassificationPlan", "evaluate_classifier"]

TASK = "classification"
_BATCH_SIZE = 32
_OBJECTIVES: dict[Goal, Callable[[ClassifierVictim, torch.Tensor], Objective]] = {
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
        out: where attacked images are kept; an interrupted run resumes from there.

    Returns:
        Rows of task ``classification``; intervals by a bootstrap over photos.
    """
    rows: list[Row] = []

    def report(defence: Defence, threat: Threat, metric: str, right: Floats) -> None:
        measures = [(TASK, metric, _by_photo(right, windows.photos))]
        name = " ".join([defence.name, defence.setting.split(" weights=")[0]]).strip()
        rows.extend(
            rows_under(threat, measures, defence=name, victim=victim.name, seeds=plan.seeds)
        )

    clean = Threat(tier=Tier.CLEAN, attack="none")
    for defence in defences:
        right = _restored(victim, defence, windows.images, windows.labels, plan.seeds)
        report(defence, clean, "agreement", right)
    for epsilon in plan.epsilons:
        sets = {
            goal: _attacked(victim, windows, _config(plan, epsilon, goal), out)
            for goal in _OBJECTIVES
        }
        for defence in defences:
            worst: Floats | None = None
            for goal, images in sets.items():
                config = _config(plan, epsilon, goal)
                right = _restored(victim, defence, images, windows.labels, plan.seeds)
                report(
                    defence,
                    Threat.of(config, tier=Tier.OBLIVIOUS, label=config.label),
                    "accuracy",
                    right,
                )
                worst = right if worst is None else np.minimum(worst, right)
            union = Threat.of(_config(plan, epsilon, "margin"), tier=Tier.OBLIVIOUS, label=UNION)
            if worst is not None:
                report(defence, union, "accuracy", worst)
    return rows


def _config(plan: ClassificationPlan, epsilon: float, goal: Goal) -> AttackConfig:
    config = AttackConfig(name=plan.attack, epsilon=epsilon, steps=plan.steps, seed=plan.seed)
    return replace(config, goal=goal)


def _attacked(
    victim: ClassifierVictim, windows: Windows, config: AttackConfig, out: Path
) -> list[np.ndarray]:
    label = f"{victim.name}-{config.label}-{round(config.epsilon * 255)}"
    images: list[np.ndarray] = []
    starts = range(0, len(windows.images), _BATCH_SIZE)
    for number, start in enumerate(progress(starts, desc=label, unit="batch")):
        chunk = windows.images[start : start + _BATCH_SIZE]
        labels = windows.labels[start : start + _BATCH_SIZE].to(victim.device)
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
                _OBJECTIVES[seeded.goal](victim, labels),
                epsilon=seeded.epsilon,
                generator=torch.Generator().manual_seed(seeded.seed),
                device=victim.device,
            )

        images += kept_images(out / "attacked" / label / key, len(chunk), make)
    return images


def _restored(
    victim: ClassifierVictim,
    defence: Defence,
    images: Sequence[np.ndarray],
    labels: torch.Tensor,
    seeds: int,
) -> Floats:
    """(S, N): whether the class is that of the clean, undefended window."""
    found = []
    for seed in range(seeds if defence.is_random else 1):
        defended = np.stack(defend(defence, images, seed=seed))
        classes = torch.cat(
            [
                victim.predict(dequantise(torch.from_numpy(defended[start : start + _BATCH_SIZE])))
                for start in range(0, len(defended), _BATCH_SIZE)
            ]
        )
        found.append((classes.cpu() == labels).numpy().astype(np.float64))
    return np.stack(found)


def _by_photo(right: Floats, photos: NDArray[np.int64]) -> Estimate:
    """The mean, its interval over whole photos."""
    mean = right.mean(axis=0)
    totals = np.array(
        [[mean[photos == photo].sum(), (photos == photo).sum()] for photo in np.unique(photos)]
    )
    return bootstrap(totals, lambda sums: np.asarray(sums[..., 0] / sums[..., 1]), n=len(mean))
