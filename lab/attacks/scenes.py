"""From an attack's configuration to attacked files: the one place that knows what it maximises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lab.attacks.interface import Objective
from lab.attacks.objectives import (
    answer_margin,
    encoder_distance,
    targeted_loss,
    untargeted_loss,
)
from lab.attacks.pixels import attack_pixels
from lab.attacks.registry import AttackConfig
from lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from lab.victims.victim import Victim
from models.quantise import dequantise

__all__ = ["attack_scenes"]


def attack_scenes(
    config: AttackConfig,
    victim: Victim,
    images: Sequence[np.ndarray],
    truths: Sequence[Sequence[Dialogue]],
    targets: Sequence[str] = (),
) -> list[bytes]:
    """Attacks images of one size and returns the PNG files that would be uploaded.

    Args:
        config: the attack.
        victim: whose gradients are used.
        images: (H, W, 3) uint8 each.
        truths: for each image, what an untargeted attack leads away from.
        targets: for each image, the caption that a targeted attack heads for.
    """
    objective = _objective(config, victim, images, truths, targets)
    generator = torch.Generator().manual_seed(config.seed)
    return attack_pixels(
        config.build(),
        images,
        objective,
        epsilon=config.epsilon,
        generator=generator,
        device=victim.device,
    )


def _objective(
    config: AttackConfig,
    victim: Victim,
    images: Sequence[np.ndarray],
    truths: Sequence[Sequence[Dialogue]],
    targets: Sequence[str],
) -> Objective:
    if config.goal == "encoder":
        return encoder_distance(victim, dequantise(torch.from_numpy(np.stack(list(images)))))
    if config.targeted:
        return targeted_loss(victim, [Dialogue(CAPTION_REQUEST, target) for target in targets])
    return (answer_margin if config.goal == "margin" else untargeted_loss)(victim, truths)
