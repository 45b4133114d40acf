"""What the detector is tried on: benign images, T0's attacks, the suite, and who evades it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from codefend.lab.attacks.adaptive import AdaptiveConfig
from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.objectives import language_objective
from codefend.lab.attacks.pixels import attack_pixels
from codefend.lab.detection.benign import gaussian, recompress, resize, uniform
from codefend.lab.detection.evading import Evading
from codefend.lab.detection.evaluation import Sample
from codefend.lab.detection.scoring import Scorer
from codefend.lab.documents.document import Fonts
from codefend.lab.documents.kinds import documents
from codefend.lab.evaluate.attacked import AttackedImages
from codefend.lab.evaluate.kept import kept_images
from codefend.lab.evaluate.run import Plan
from codefend.lab.evaluate.targets import target_captions
from codefend.lab.evaluate.tiers.suite import Suite, Variant
from codefend.lab.evaluate.truth import TrueScene, scene_digest, truths
from codefend.lab.experiments.report import Threat
from codefend.lab.experiments.store import digest_of
from codefend.lab.progress import progress
from codefend.lab.victims.victim import Victim

__all__ = ["benign_samples", "evading_samples", "oblivious_samples", "suite_samples"]

_BATCH_SIZE = 8

_ALTERED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "jpeg-50": lambda pixels, rng: recompress(pixels, 50),
    "gaussian-8": lambda pixels, rng: gaussian(pixels, 8.0, rng),
    "uniform-8": lambda pixels, rng: uniform(pixels, 8.0, rng),
    "resize-0.5": lambda pixels, rng: resize(pixels, 0.5),
    "resize-1.5": lambda pixels, rng: resize(pixels, 1.5),
}


def benign_samples(
    scenes: Sequence[np.ndarray], photos: Sequence[np.ndarray], *, num_documents: int, seed: int
) -> list[Sample]:
    """Clean scenes and photos, each altered as the web alters images, and pictures of text.

    Args:
        scenes: (H, W, 3) uint8 each.
        photos: likewise; of any sizes.
        num_documents: of each kind and text size.
        seed: of noise and texts.
    """
    samples = []
    for source, images in (("scene", scenes), ("photo", photos)):
        samples.append(_benign(source, images))
        for name, alter in _ALTERED.items():
            rng = np.random.default_rng([seed, 14])
            samples.append(_benign(f"{source}-{name}", [alter(pixels, rng) for pixels in images]))
    drawn = documents(Fonts.built_in(), num=num_documents, seed=seed)
    for kind in dict.fromkeys(document.kind for document in drawn):
        images = [document.image for document in drawn if document.kind == kind]
        samples.append(_benign(kind, images))
    return samples


def _benign(name: str, images: Sequence[np.ndarray]) -> Sample:
    return Sample(Threat(tier=Tier.CLEAN, attack=name), images)


def oblivious_samples(
    plan: Plan, attacker: Victim, scenes: Sequence[TrueScene], folder: Path
) -> Iterator[Sample]:
    """T0's images at every radius, towards a caption too at the main one.

    Args:
        plan: T0's.
        attacker: whose gradients are used.
        scenes: what is attacked.
        folder: where attacked images are kept.
    """
    attacked = AttackedImages(attacker, folder)
    targets = target_captions(scenes, seed=plan.seed)
    for epsilon in sorted({plan.epsilon, *plan.other_epsilons}):
        num = len(scenes) if epsilon == plan.epsilon else plan.num_scenes_other
        for goal in plan.goals if epsilon == plan.epsilon else plan.goals[:1]:
            config = plan.config(epsilon, goal)
            threat = Threat.of(config, tier=Tier.OBLIVIOUS, label=config.label)
            yield _attack(threat, attacked(config, scenes[:num]), scenes)
    config = plan.config(plan.epsilon, "language", targeted=True)
    num = min(plan.num_scenes_targeted, len(scenes))
    images = attacked(config, scenes[:num], targets[:num])
    yield _attack(Threat.of(config, tier=Tier.OBLIVIOUS, label=config.label), images, scenes)


def suite_samples(
    plan: Plan, variants: Sequence[Variant], suite: Suite, scenes: Sequence[TrueScene]
) -> Iterator[Sample]:
    """The attack suite's images at the main radius; see ``Suite``."""
    for variant in variants:
        config = variant.config(plan.epsilon / 255, plan.steps, plan.seed)
        images, _ = suite(config, scenes)
        threat = Threat.of(config, tier=Tier.OBLIVIOUS, label=variant.label)
        yield _attack(threat, images, scenes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How an attacker evades: behind the purifier or not."""

    label: str
    sees_purified: bool
    num_draws: int = 4


def evading_samples(
    plan: Plan,
    attacker: Victim,
    scorer: Scorer,
    scenes: Sequence[TrueScene],
    folder: Path,
    *,
    steps: int,
) -> Iterator[Sample]:
    """Attacks of the answers' margin that also minimise suspicion, white-box as to the detector.

    ``evading`` harms the undefended model, ``evading-purified`` the one behind the purifier.

    Args:
        plan: its radius, search and seed hold here.
        attacker: whose gradients are used.
        scorer: the detector, its purifier with its exact gradient path.
        scenes: what is attacked.
        folder: where attacked images are kept.
        steps: gradient steps.
    """
    ways = (
        _Way(label="evading", sees_purified=False),
        _Way(label="evading-purified", sees_purified=True),
    )
    for way in ways:
        search = replace(plan.config(plan.epsilon, "margin"), steps=steps)
        config = AdaptiveConfig(search=search, gradient="exact", num_draws=way.num_draws)
        images: list[np.ndarray] = []
        starts = range(0, len(scenes), _BATCH_SIZE)
        for number, start in enumerate(progress(starts, desc=way.label, unit="batch")):
            chunk = scenes[start : start + _BATCH_SIZE]
            seeded = replace(config, search=replace(search, seed=1_000_003 * plan.seed + number))
            images += _evade(way, seeded, attacker, scorer, chunk, folder)
        threat = Threat.of(search, tier=Tier.WHITE_BOX, label=way.label)
        threat = replace(threat, eot=way.num_draws, gradient="exact")
        yield _attack(threat, images, scenes)


def _evade(
    way: _Way,
    config: AdaptiveConfig,
    attacker: Victim,
    scorer: Scorer,
    scenes: Sequence[TrueScene],
    folder: Path,
) -> list[np.ndarray]:
    quantiles = scorer.detector.config.clean_quantiles
    key = digest_of(
        asdict(config),
        asdict(way),
        scorer.purifier.setting,
        list(quantiles),
        attacker.sha256,
        str(attacker.dtype),
        scene_digest(scenes),
    )

    def make() -> list[bytes]:
        evading = Evading(
            harm=language_objective("margin", attacker, [truths(scene) for scene in scenes]),
            detector=scorer.detector,
            purify=scorer.purifier.gradient_paths["exact"],
            usual_score=quantiles[len(quantiles) // 2],
            generator=torch.Generator().manual_seed(config.search.seed),
            sees_purified=way.sees_purified,
            num_draws=way.num_draws,
        )
        return attack_pixels(
            config.search.build(),
            [scene.image for scene in scenes],
            evading,
            epsilon=config.search.epsilon,
            generator=torch.Generator().manual_seed(config.search.seed),
            device=attacker.device,
        )

    return kept_images(folder / way.label / key, len(scenes), make)


def _attack(threat: Threat, images: list[np.ndarray], scenes: Sequence[TrueScene]) -> Sample:
    return Sample(threat, images, [scene.image for scene in scenes[: len(images)]])
