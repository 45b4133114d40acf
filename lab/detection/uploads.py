"""What the detector is tried on: benign images, T0's attacks, the suite, and who evades it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from codefend.lab.attacks.adaptive import ThroughDefence
from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.objectives import language_objective
from codefend.lab.attacks.pixels import attack_pixels
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.detection.benign import gaussian, recompress, resize, uniform
from codefend.lab.detection.scoring import SuspicionScorer
from codefend.lab.documents.document import Fonts
from codefend.lab.documents.kinds import documents
from codefend.lab.evaluate.context import ObliviousSettings
from codefend.lab.evaluate.data import TrueScene, truths
from codefend.lab.evaluate.uploads import Attacker, Uploads
from codefend.lab.experiments.craft import AttackBatch, craft
from codefend.lab.experiments.report import Threat
from codefend.models.detector.calibration import FLAG_ABOVE

__all__ = ["altered_uploads", "benign_uploads", "evading_uploads"]

_BATCH_SIZE = 8
_NUM_DRAWS = 4
_WAYS = {"evading": False, "evading-purified": True}
"""Who evades: whether the victim that is harmed is behind the purifier."""

_ALTERED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "jpeg-50": lambda pixels, rng: recompress(pixels, 50),
    "gaussian-8": lambda pixels, rng: gaussian(pixels, 8.0, rng),
    "uniform-8": lambda pixels, rng: uniform(pixels, 8.0, rng),
    "resize-0.5": lambda pixels, rng: resize(pixels, 0.5),
    "resize-1.5": lambda pixels, rng: resize(pixels, 1.5),
}


def benign_uploads(
    scenes: Sequence[np.ndarray], photos: Sequence[np.ndarray], *, num_documents: int, seed: int
) -> list[Uploads]:
    """Clean scenes and photos, each altered as the web alters images, and pictures of text.

    Args:
        scenes: (H, W, 3) uint8 each.
        photos: likewise; of any sizes.
        num_documents: of each kind and text size.
        seed: of noise and texts.
    """
    found = [*altered_uploads("scene", scenes, seed=seed)]
    found += altered_uploads("photo", photos, seed=seed)
    drawn = documents(Fonts.built_in(), num=num_documents, seed=seed)
    for kind in dict.fromkeys(document.kind for document in drawn):
        images = [document.image for document in drawn if document.kind == kind]
        found.append(_benign(kind, images))
    return found


def altered_uploads(source: str, images: Sequence[np.ndarray], *, seed: int) -> Iterator[Uploads]:
    """Clean images, then the same altered in each way that the web alters images.

    Args:
        source: what they are of; each alteration's name stands behind it.
        images: (H, W, 3) uint8 each, of any sizes.
        seed: of noise.
    """
    yield _benign(source, images)
    for name, alter in _ALTERED.items():
        rng = np.random.default_rng([seed, 14])
        yield _benign(f"{source}-{name}", [alter(pixels, rng) for pixels in images])


def _benign(name: str, images: Sequence[np.ndarray]) -> Uploads:
    return Uploads(Threat(tier=Tier.CLEAN, attack=name), images)


def evading_uploads(
    settings: ObliviousSettings,
    attacker: Attacker,
    scorer: SuspicionScorer,
    scenes: Sequence[TrueScene],
) -> Iterator[Uploads]:
    """Attacks of the answers' margin that also minimise suspicion, white-box as to the detector.

    `evading` harms the undefended model, `evading-purified` the one behind the purifier.

    Args:
        settings: radius, search, steps and seed.
        attacker: whose gradients are used.
        scorer: the detector, its purifier with its exact gradient path.
        scenes: what is attacked.
    """
    quantiles = scorer.detector.config.clean_quantiles
    penalty = partial(scorer.excess, above=FLAG_ABOVE)
    config, victim = settings.config(settings.epsilon, "margin"), attacker.victim
    for label, sees_purified in _WAYS.items():

        def attack(
            batch: AttackBatch[TrueScene], sees_purified: bool = sees_purified
        ) -> list[bytes]:
            harmed = scorer.purifier if sees_purified else NO_DEFENCE
            evading = ThroughDefence(
                language_objective("margin", victim, [truths(s) for s in batch.items]),
                harmed.gradient_paths["exact"],
                torch.Generator().manual_seed(batch.seed),
                _NUM_DRAWS,
                penalty=penalty,
            )
            return attack_pixels(
                config.build(),
                [scene.image for scene in batch.items],
                evading,
                epsilon=config.epsilon,
                generator=torch.Generator().manual_seed(batch.seed),
                device=victim.device,
            )

        images = craft(
            attacker.store,
            label,
            scenes,
            attack,
            made_by=[config, label, scorer.purifier.setting, quantiles, attacker.identity],
            seed=settings.seed,
            batch_size=_BATCH_SIZE,
        )
        threat = Threat.of(config, tier=Tier.WHITE_BOX, label=label)
        threat = replace(threat, eot=_NUM_DRAWS, gradient="exact")
        yield Uploads(threat, images, [scene.image for scene in scenes])
