"""Pairs of natural photos, attacked on an ImageNet classifier: real vision beside the scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from codefend.lab.attacks.interface import Goal, Objective
from codefend.lab.attacks.objectives import class_loss, class_margin
from codefend.lab.errors import LabError
from codefend.lab.train.crops import PhotoSource, photo_crops
from codefend.lab.train.pairs import EPSILON_RANGE, attack_into, batches_due, training_attack
from codefend.lab.victims.classifier import TRAINING_CLASSIFIER, ClassifierVictim

__all__ = ["PHOTO_SIDE_PX", "make_photo_pairs"]

PHOTO_SIDE_PX = 224
RECIPES = ("loss", "margin", "features")
GOALS: dict[str, Goal] = {"loss": "language", "margin": "margin", "features": "encoder"}


def make_photo_pairs(
    world: PhotoSource,
    victim: ClassifierVictim,
    folder: Path,
    *,
    num_pairs: int,
    steps: int = 10,
    batch_size: int = 32,
    share: tuple[int, int] = (0, 1),
    seed: int = 0,
) -> None:
    """Attack crops of the training photos by PGD, away from what the classifier makes of them.

    Files are those of ``make_pairs``, with images of 224 px.

    Raises:
        LabError: The classifier is not the one that training may see.
    """
    if victim.name != TRAINING_CLASSIFIER:
        raise LabError(f"{victim.name} is held out: only {TRAINING_CLASSIFIER} may be trained on")
    for number, path in batches_due(folder, num_pairs, batch_size, share):
        rng = np.random.default_rng([seed, 7, number])
        crops = photo_crops(world, batch_size, PHOTO_SIDE_PX, rng)
        clean = crops.to(victim.device).float() / 255
        recipe = RECIPES[number % len(RECIPES)]
        config = training_attack(float(rng.uniform(*EPSILON_RANGE)), steps, GOALS[recipe])
        objective = _objective(recipe, victim, clean)
        attack_into(path, clean, objective, config, rng)


def _objective(recipe: str, victim: ClassifierVictim, clean: torch.Tensor) -> Objective:
    if recipe == "features":
        with torch.no_grad():
            wanted = victim.encoder_features(clean)

        def objective(images: torch.Tensor) -> torch.Tensor:
            features = victim.encoder_features(images)
            return (1 - torch.cosine_similarity(features, wanted, dim=-1)).mean(dim=1)

        return objective
    labels = victim.predict(clean)
    return (class_margin if recipe == "margin" else class_loss)(victim, labels)
