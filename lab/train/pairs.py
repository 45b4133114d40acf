"""Attacked–clean pairs from the victim's own gradients: what the purifier learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from codefend.lab.attacks.interface import Goal, Objective
from codefend.lab.attacks.objectives import encoder_distance, language_objective, targeted_loss
from codefend.lab.attacks.pixels import quantise_within
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.errors import LabError
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import scene_batch
from codefend.models.prompts.templates import render
from codefend.models.quantise import dequantise, quantise

__all__ = [
    "EPSILON_RANGE",
    "Pairs",
    "UnattackedBatch",
    "attack_batches",
    "attack_into",
    "batches_due",
    "load_pairs",
    "make_pairs",
    "num_batches_in",
    "served_dialogues",
    "training_attack",
]

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


class AskedAndAnswered(Protocol):
    """A question with its right answer."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """What is right."""


@dataclass(frozen=True, slots=True)
class UnattackedBatch:
    """What a batch of pairs is made of.

    Attributes:
        images: (B, 3, H, W) uint8.
        tell: For each image the caption, then every question, as served, with their right answers;
            called where the attack needs them alone.
    """

    images: Tensor
    tell: Callable[[], list[list[Dialogue]]]


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
    """Attack scenes of the train split by PGD, into ``folder``; see ``attack_batches``."""

    def batch_of(numbers: range) -> UnattackedBatch:
        batch = scene_batch(world, "train", numbers, seed=seed + 20)
        captions = [references[0] for references in batch.captions]
        return UnattackedBatch(batch.images, partial(served_dialogues, captions, batch.questions))

    attack_batches(
        batch_of,
        victim,
        folder,
        num_pairs=num_pairs,
        steps=steps,
        batch_size=batch_size,
        share=share,
        seed=seed,
    )


def attack_batches(
    batch_of: Callable[[range], UnattackedBatch],
    victim: Victim,
    folder: Path,
    *,
    num_pairs: int,
    steps: int,
    batch_size: int,
    share: tuple[int, int],
    seed: int,
) -> None:
    """Attack images by PGD, one recipe and one ε a batch, into ``folder``; see ``batches_due``."""
    for number, path in batches_due(folder, num_pairs, batch_size, share):
        first = number * batch_size
        rng = np.random.default_rng([seed, 5, number])
        batch = batch_of(range(first, first + batch_size))
        recipe = RECIPES[number % len(RECIPES)]
        epsilon = float(rng.uniform(*EPSILON_RANGE))
        pixels = batch.images.permute(0, 2, 3, 1).contiguous()
        clean = dequantise(pixels).contiguous().to(victim.device)
        config = training_attack(epsilon, steps, GOALS[recipe])
        objective = _objective(recipe, victim, batch, clean)
        attack_into(path, clean, objective, config, rng)


def batches_due(
    folder: Path, num_pairs: int, batch_size: int, share: tuple[int, int]
) -> Iterator[tuple[int, Path]]:
    """The number and the file of every batch that is still to be made, with progress.

    Every batch is a file of its own; those already there are kept, so an interrupted run resumes.
    A ``share`` (i, n) makes only the batches i, i + n, …: n processes fill one folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part, of = share
    for number in tqdm(range(part, -(-num_pairs // batch_size), of), desc="pairs", unit="batch"):
        path = folder / f"pairs-{number:05d}.npz"
        if not path.exists():
            yield number, path


def num_batches_in(folder: Path) -> int:
    """How many batches are made."""
    return len(_files_in(folder))


def _files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("pairs-*[0-9].npz"))


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


def served_dialogues(
    captions: Sequence[str], questions: Sequence[Sequence[AskedAndAnswered]]
) -> list[list[Dialogue]]:
    """For each image the caption, then every question, asked as the service asks."""
    request = render("caption")
    return [
        [
            Dialogue(request, caption),
            *(Dialogue(render("vqa", q.question), q.answer) for q in asked),
        ]
        for caption, asked in zip(captions, questions, strict=True)
    ]


def _objective(recipe: str, victim: Victim, batch: UnattackedBatch, clean: Tensor) -> Objective:
    """What the attacker wants; targets are the neighbouring image or its caption."""
    if recipe == "encoder-away":
        return encoder_distance(victim, clean)
    if recipe == "encoder-towards":
        return encoder_distance(victim, clean.roll(1, 0), towards=True)
    truths = batch.tell()
    if recipe == "targeted":
        captions = [dialogues[0] for dialogues in truths]
        return targeted_loss(victim, [captions[-1], *captions[:-1]])
    return language_objective(GOALS[recipe], victim, truths)


def load_pairs(folder: Path) -> Pairs:
    """Every pair under ``folder``.

    Raises:
        LabError: There are none.
    """
    files = [np.load(path) for path in _files_in(folder)]
    if not files:
        raise LabError(f"{folder} holds no pairs; make them with: codefend-lab train pairs")
    clean, attacked, epsilon = (
        torch.from_numpy(np.concatenate([file[name] for file in files]))
        for name in ("clean", "attacked", "epsilon")
    )
    return Pairs(clean.permute(0, 3, 1, 2), attacked.permute(0, 3, 1, 2), epsilon)
