"""From an attack's configuration to attacked files: the one place that knows what it maximises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from codefend.lab.attacks.interface import Objective
from codefend.lab.attacks.joint import RewordedLoss
from codefend.lab.attacks.objectives import (
    answer_score,
    encoder_distance,
    image_text_matching,
    language_objective,
    mean_of,
    prototype_guided,
    targeted_loss,
)
from codefend.lab.attacks.pixels import attack_pixels, counted
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim
from codefend.models.quantise import dequantise

__all__ = ["AttackedUpload", "attack_scenes", "attack_uploads"]


@dataclass(frozen=True, slots=True)
class AttackedUpload:
    """What an attacker sends: a PNG file, and its questions in the order of the truths."""

    image: bytes
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scenes:
    """What an objective may need of a batch."""

    images: Sequence[np.ndarray]
    truths: Sequence[Sequence[Dialogue]]
    targets: Sequence[str]
    target_images: Sequence[np.ndarray]


def attack_scenes(
    config: AttackConfig,
    victim: Victim,
    images: Sequence[np.ndarray],
    truths: Sequence[Sequence[Dialogue]],
    targets: Sequence[str] = (),
    *,
    target_images: Sequence[np.ndarray] = (),
    surrogates: Sequence[Victim] = (),
    on_step: Callable[[], object] = lambda: None,
) -> list[bytes]:
    """Attacks images of one size and returns the PNG files that would be uploaded.

    Args:
        config: the attack. The joint attack has changed the questions as well, and is only whole
            with those: see ``attack_uploads``.
        victim: whose gradients are used.
        images: (H, W, 3) uint8 each.
        truths: for each image, what an untargeted attack leads away from; the caption first.
        targets: for each image, the caption that a targeted attack heads for.
        target_images: for each image, the one that a targeted attack on the encoder heads for.
        surrogates: further models whose objectives join the victim's in the mean.
        on_step: called whenever the objective was asked; shows progress, and may end it by raising.

    Raises:
        ValueError: where the attack lacks targets, surrogates or other images.
    """
    uploads = attack_uploads(
        config,
        victim,
        images,
        truths,
        targets,
        target_images=target_images,
        surrogates=surrogates,
        on_step=on_step,
    )
    return [upload.image for upload in uploads]


def attack_uploads(
    config: AttackConfig,
    victim: Victim,
    images: Sequence[np.ndarray],
    truths: Sequence[Sequence[Dialogue]],
    targets: Sequence[str] = (),
    *,
    target_images: Sequence[np.ndarray] = (),
    surrogates: Sequence[Victim] = (),
    on_step: Callable[[], object] = lambda: None,
) -> list[AttackedUpload]:
    """As ``attack_scenes``, with the questions as the attacker asks them."""
    if config.name == "ensemble" and not surrogates:
        raise ValueError("an ensemble needs at least one surrogate beside the victim")
    victims = [victim, *surrogates]
    generator = torch.Generator().manual_seed(config.seed)
    scenes = _Scenes(images, truths, targets, target_images)
    if config.name == "joint":
        score = answer_score(config.goal)
        reworded = RewordedLoss(victims, truths, score, generator=generator, on_step=on_step)
        files = _attack(config, scenes, reworded, generator, victim.device)
        prompts = reworded.prompts
    else:
        objective = mean_of([_objective(config, each, scenes) for each in victims])
        files = _attack(config, scenes, counted(objective, on_step), generator, victim.device)
        prompts = [tuple(dialogue.prompt for dialogue in group) for group in truths]
    return [AttackedUpload(*upload) for upload in zip(files, prompts, strict=True)]


def _attack(
    config: AttackConfig,
    scenes: _Scenes,
    objective: Objective,
    generator: torch.Generator,
    device: torch.device,
) -> list[bytes]:
    return attack_pixels(
        config.build(scenes.truths),
        scenes.images,
        objective,
        epsilon=config.epsilon,
        generator=generator,
        device=device,
    )


def _objective(config: AttackConfig, victim: Victim, scenes: _Scenes) -> Objective:
    if config.goal in {"encoder", "prototype"}:
        return _encoder_objective(config, victim, scenes)
    if config.targeted and len(scenes.targets) != len(scenes.images):
        raise ValueError("a targeted attack needs a target caption for each image")
    if config.goal == "matching":
        captions = scenes.targets if config.targeted else [g[0].answer for g in scenes.truths]
        return image_text_matching(victim, captions, towards=config.targeted)
    if config.targeted:
        requests = [group[0].prompt for group in scenes.truths]
        wanted = [Dialogue(*pair) for pair in zip(requests, scenes.targets, strict=True)]
        return targeted_loss(victim, wanted)
    return language_objective(config.goal, victim, scenes.truths)


def _encoder_objective(config: AttackConfig, victim: Victim, scenes: _Scenes) -> Objective:
    clean = dequantise(torch.from_numpy(np.stack(list(scenes.images))))
    if config.goal == "prototype":
        return prototype_guided(victim, clean, clean)
    if not config.targeted:
        return encoder_distance(victim, clean)
    if len(scenes.target_images) != len(scenes.images):
        raise ValueError("a targeted attack on the encoder needs a target image for each image")
    wanted = dequantise(torch.from_numpy(np.stack(list(scenes.target_images))))
    return encoder_distance(victim, wanted, towards=True)
