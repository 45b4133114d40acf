"""Attacked–clean pairs from the victim's own gradients: what the purifier learns from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lab.attacks.interface import Goal, Objective
from lab.attacks.objectives import encoder_distance, language_objective, targeted_loss
from lab.attacks.pixels import quantise_within
from lab.attacks.registry import AttackConfig
from lab.errors import LabError
from lab.victims.dialogue import Dialogue
from lab.victims.victim import Victim
from lab.world.compose import World
from lab.world.scenes import SceneBatch, scene_batch
from models.prompts.templates import render
from models.quantise import dequantise, quantise

__all__ = ["EPSILON_RANGE", "Pairs", "attack_into", "load_pairs", "make_pairs", "training_attack"]

EPSILON_RANGE = (2 / 255, 16 / 255)
RECIPES = ("untargeted", "margin", "targeted", "encoder-away", "encoder-towards")
GOALS: dict[str, Goal] = {
    "untargeted": "language",
    "margin": "margin",
    "targeted": "language",
    "encoder-away": "encoder",
    "encoder-towards": "encoder",
}


@dataclass(frozen=True, slots=True)
class Pairs:
    """Clean and attacked images, both (N, 3, H, W) uint8, with each pair's ε as a fraction."""

    clean: Tensor
    attacked: Tensor
    epsilon: Tensor


def make_pairs(
    world: World,
    victim: Victim,
    folder: Path,
    *,
    num_pairs: int,
    steps: int = 10,
    batch_size: int = 32,
    share: tuple[int, int] = (0, 1),
    seed: int = 0,
) -> None:
    """Attack scenes of the train split by PGD, one recipe and one ε a batch, into ``folder``.

    Every batch is a file of its own; those already there are kept, so an interrupted run resumes.
    A ``share`` (i, n) makes only the batches i, i + n, …: n processes fill one folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part, of = share
    for number in tqdm(range(part, -(-num_pairs // batch_size), of), desc="pairs", unit="batch"):
        first = number * batch_size
        path = folder / f"pairs-{number:05d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, 5, number])
        batch = scene_batch(world, "train", range(first, first + batch_size), seed=seed + 20)
        recipe = RECIPES[number % len(RECIPES)]
        epsilon = float(rng.uniform(*EPSILON_RANGE))
        pixels = batch.images.permute(0, 2, 3, 1).contiguous()
        clean = dequantise(pixels).contiguous().to(victim.device)
        config = training_attack(epsilon, steps, GOALS[recipe])
        objective = _objective(recipe, victim, batch, clean)
        attack_into(path, clean, objective, config, rng)


def training_attack(epsilon: float, steps: int, goal: Goal) -> AttackConfig:
    """The attack that pairs are made by.

    Raises:
        ValueError: Its family is held out.
    """
    return AttackConfig(name="pgd", epsilon=epsilon, steps=steps, goal=goal).for_training()


def attack_into(
    path: Path, clean: Tensor, objective: Objective, config: AttackConfig, rng: np.random.Generator
) -> None:
    """Attack one batch (B, 3, H, W) of images on the 256 levels, and write its file whole."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    attacked = config.build()(clean, objective, generator=generator)
    pixels = quantise(clean).cpu().numpy()
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        clean=pixels,
        attacked=quantise_within(attacked, pixels, config.epsilon),
        epsilon=np.full(len(pixels), config.epsilon, np.float32),
    )
    partial.rename(path)


def _objective(recipe: str, victim: Victim, batch: SceneBatch, clean: Tensor) -> Objective:
    """What the attacker wants; targets are the neighbouring scene's caption or image."""
    if recipe == "encoder-away":
        return encoder_distance(victim, clean)
    if recipe == "encoder-towards":
        return encoder_distance(victim, clean.roll(1, 0), towards=True)
    request = render("caption")
    captions = [Dialogue(request, references[0]) for references in batch.captions]
    if recipe == "targeted":
        return targeted_loss(victim, [captions[-1], *captions[:-1]])
    truths = [
        [caption, *(Dialogue(render("vqa", q.question), q.answer) for q in questions)]
        for caption, questions in zip(captions, batch.questions, strict=True)
    ]
    return language_objective(GOALS[recipe], victim, truths)


def load_pairs(folder: Path) -> Pairs:
    """Every pair under ``folder``.

    Raises:
        LabError: There are none.
    """
    files = [np.load(path) for path in sorted(folder.glob("pairs-*[0-9].npz"))]
    if not files:
        raise LabError(f"{folder} holds no pairs; make them with: codefend-lab train pairs")
    clean, attacked, epsilon = (
        torch.from_numpy(np.concatenate([file[name] for file in files]))
        for name in ("clean", "attacked", "epsilon")
    )
    return Pairs(clean.permute(0, 3, 1, 2), attacked.permute(0, 3, 1, 2), epsilon)
