"""T2 on a classifier: every defence attacked through itself, by the gradients that it has.

A window that every fresh draw of the defence already gets wrong is given up: going on could not
make it count for more, and costs as much as finding it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from codefend.lab.attacks.adaptive import ThroughDefence
from codefend.lab.attacks.gradient import loss_and_grad, random_start
from codefend.lab.attacks.interface import Bounds, Tier
from codefend.lab.attacks.pixels import quantise_within
from codefend.lab.baselines.defence import Defence, Forward
from codefend.lab.classification.evaluation import OBJECTIVES, Scorer, by_thing, label_of
from codefend.lab.classification.windows import Windows
from codefend.lab.evaluate.kept import kept_images
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.store import digest_of
from codefend.lab.labels import UNION
from codefend.lab.progress import progress
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.models.codec import encode_image
from codefend.models.quantise import dequantise

__all__ = ["WhiteBoxPlan", "white_box_rows"]

_LOOK_EVERY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WhiteBoxPlan:
    """How defences are attacked through themselves, by the margin.

    Attributes:
        num_windows: attacked; each of another thing, as far as there are so many.
        epsilons: radii, as fractions of the range.
        steps: at most so many gradient steps of PGD.
        num_draws: of the defence's noise, averaged at every step.
        seeds: of the noise under which what was found is scored.
        seed: of random starts and of the attacker's noise.
    """

    num_windows: int = 8
    epsilons: tuple[float, ...] = (4 / 255,)
    steps: int = 50
    num_draws: int = 8
    seeds: int = 3
    seed: int = 0


def white_box_rows(
    victim: ClassifierVictim,
    windows: Windows,
    defences: Sequence[Defence],
    plan: WhiteBoxPlan,
    out: Path,
) -> list[Row]:
    """What every defence leaves of the predictions, under each of its gradients and their union.

    Args:
        victim: whose predictions on the clean windows count.
        windows: of which the first ``num_windows`` are attacked.
        defences: each attacked by all gradients that it has, the exact one alone if it has that.
        plan: how.
        out: where attacked images are kept; an interrupted run resumes from there.
    """
    images = windows.images[: plan.num_windows]
    labels = windows.labels[: plan.num_windows]
    things = windows.photos[: plan.num_windows]
    scorer = Scorer(victim, out)
    rows: list[Row] = []
    for epsilon in plan.epsilons:
        for defence in defences:
            worst = np.ones((1, len(images)))
            gradients = (
                ["exact"] if "exact" in defence.gradient_paths else list(defence.gradient_paths)
            )
            threat = _threat(plan, epsilon, "+".join(gradients))
            for gradient in gradients:
                left = np.flatnonzero(worst.max(axis=0))  # another gradient's losses are lost
                if len(left):
                    own = [images[n] for n in left], labels[left]
                    attacked = _attacked(victim, *own, defence, gradient, plan, epsilon, out)
                    right = scorer(defence, attacked, own[1], plan.seeds)
                    worst = np.broadcast_to(worst, (len(right), len(images))).copy()
                    worst[:, left] = np.minimum(worst[:, left], right)
            measures = [("classification", "accuracy", by_thing(worst, things))]
            rows += rows_under(
                threat,
                measures,
                defence=label_of(defence),
                victim=victim.name,
                seeds=plan.seeds,
            )
    return rows


def _threat(plan: WhiteBoxPlan, epsilon: float, gradient: str) -> Threat:
    return Threat(
        tier=Tier.WHITE_BOX,
        attack=UNION,
        family="language_loss",
        epsilon=epsilon,
        steps=plan.steps,
        eot=plan.num_draws,
        gradient=gradient,
        restarts=1,
    )


def _attacked(
    victim: ClassifierVictim,
    images: Sequence[np.ndarray],
    labels: Tensor,
    defence: Defence,
    gradient: str,
    plan: WhiteBoxPlan,
    epsilon: float,
    out: Path,
) -> list[np.ndarray]:
    """One window at a time: a defence of a few seconds a step is then kept as it goes."""
    found: list[np.ndarray] = []
    own = replace(plan, num_windows=0, epsilons=(), seeds=0)
    label = f"{victim.name} t2 {label_of(defence)} {gradient}"
    for number, image in enumerate(progress(images, desc=label, unit="window")):
        key = digest_of(
            str(own),
            epsilon,
            victim.sha256,
            [defence.name, defence.setting, gradient],
            image.tobytes().hex(),
        )
        search = _Search(victim, labels[number : number + 1], defence, gradient, plan, epsilon)
        seed = plan.seed * 1_000_003 + number

        def make(
            image: np.ndarray = image, search: _Search = search, seed: int = seed
        ) -> list[bytes]:
            return [search(image, seed)]

        found += kept_images(out / "attacked" / "t2" / key, 1, make)
    return found


@dataclass(frozen=True, slots=True)
class _Search:
    """PGD on the margin through one defence, until no fresh draw restores the class."""

    victim: ClassifierVictim
    label: Tensor
    defence: Defence
    gradient: str
    plan: WhiteBoxPlan
    epsilon: float

    def __call__(self, image: np.ndarray, seed: int) -> bytes:
        """The PNG file of the attacked (H, W, 3) uint8 window."""
        clean = dequantise(torch.from_numpy(np.stack([image]))).contiguous()
        noise = torch.Generator().manual_seed(seed ^ 0x5EED)
        through = self._through(noise)
        bounds = Bounds()
        current = random_start(clean, self.epsilon, bounds, torch.Generator().manual_seed(seed))
        best, highest = current, -torch.inf
        for step in range(self.plan.steps + 1):
            losses, gradients = loss_and_grad(current, through)
            if float(losses) > highest:
                best, highest = current, float(losses)
            if step % _LOOK_EVERY == 0 and highest > 0 and self._is_lost(best, image, noise):
                break
            moved = current + 2.5 * self.epsilon / self.plan.steps * gradients.sign()
            current = bounds.project(moved, clean, self.epsilon)
        return encode_image(quantise_within(best, image[None], self.epsilon)[0])

    def _through(self, noise: Generator) -> ThroughDefence:
        draws = self.plan.num_draws if self.defence.is_random else 1
        forward: Forward = self.defence.gradient_paths[self.gradient]
        objective = OBJECTIVES["margin"](self.victim, self.label.repeat(draws))
        return ThroughDefence(objective, forward, noise, draws, draws)

    def _is_lost(self, best: Tensor, image: np.ndarray, noise: Generator) -> bool:
        pixels = quantise_within(best, image[None], self.epsilon)
        uploads = dequantise(torch.from_numpy(pixels))
        copies = self.plan.num_draws if self.defence.is_random else 1
        with torch.no_grad():
            seen = self.defence.apply(uploads.repeat(copies, 1, 1, 1), noise)
        return not bool((self.victim.predict(seen).cpu() == self.label).any())
