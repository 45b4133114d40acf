"""Attacked–clean pairs from a victim's own gradients: what purifiers and detectors learn from.

Of scenes of the embedded world or a user's own pictures, attacked on an MLLM; of crops of photos,
attacked on an ImageNet classifier: real vision beside the scenes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor
from tqdm import tqdm

from codefend.lab.attacks.interface import Goal, Objective
from codefend.lab.attacks.objectives import (
    class_loss,
    class_margin,
    encoder_distance,
    language_objective,
    targeted_loss,
)
from codefend.lab.attacks.pixels import quantise_within
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.folders.folder import ImageFolder
from codefend.lab.folders.pseudo_labels import PseudoLabeler
from codefend.lab.train.crops import PhotoSource, photo_crops
from codefend.lab.victims.classifier import TRAINING_CLASSIFIER, ClassifierVictim
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.lab.world.scenes import scene_batch
from codefend.models.prompts.templates import render
from codefend.models.quantise import dequantise, quantise

__all__ = [
    "EPSILON_RANGE",
    "PairSettings",
    "Pairs",
    "load_pairs",
    "make_folder_pairs",
    "make_pairs",
    "make_photo_pairs",
    "num_batches_in",
]

EPSILON_RANGE = (2 / 255, 16 / 255)
GOALS: dict[str, Goal] = {
    "untargeted": "language",
    "margin": "margin",
    "targeted": "language",
    "encoder-away": "encoder",
    "encoder-towards": "encoder",
}
"""How scenes and pictures are attacked, a way for each batch in turn, and what it moves."""
PHOTO_GOALS: dict[str, Goal] = {"loss": "language", "margin": "margin", "features": "encoder"}
"""Likewise of photos, on a classifier."""
PHOTO_SIDE_PX = 224


def _read_share(given: Any) -> Any:
    text = given[0] if isinstance(given, list) and len(given) == 1 else given  # of a command line
    match = re.fullmatch(r"(\d+)/(\d+)", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else given


class PairSettings(RunSettings):
    """How many pairs are made, and how."""

    num_pairs: int = 4096
    """Pairs to make."""
    steps: int = 10
    """PGD steps."""
    batch_size: int = Field(32, ge=1)
    """Images a step."""
    share: Annotated[tuple[int, int], BeforeValidator(_read_share)] = (0, 1)
    """Make only batches i of every n, as i/n: several commands fill one folder at once."""
    seed: int = 0
    """Of data, weights and noise."""

    def model_post_init(self, context: Any, /) -> None:
        """Refuses a share that is none."""
        part, of = self.share
        if not 0 <= part < of:
            raise LabError(f"--share must be i/n with i below n, not {part}/{of}")

    def batches_due(self, folder: Path) -> Iterator[tuple[int, Path]]:
        """The number and the file of every batch that is still to be made, with progress.

        Every batch is a file of its own; those already there are kept, so an interrupted run
        resumes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        part, of = self.share
        last = -(-self.num_pairs // self.batch_size)
        for number in tqdm(range(part, last, of), desc="pairs", unit="batch"):
            path = folder / f"pairs-{number:05d}.npz"
            if not path.exists():
                yield number, path


@dataclass(frozen=True, slots=True)
class Pairs:
    """Clean and attacked images, both (N, 3, H, W) uint8, with each pair's ε as a fraction."""

    clean: Tensor
    attacked: Tensor
    epsilon: Tensor


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


def num_batches_in(folder: Path) -> int:
    """How many batches are made."""
    return len(_files_in(folder))


def _files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("pairs-*[0-9].npz"))


class _AskedAndAnswered(Protocol):
    """A question with its right answer."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """What is right."""


@dataclass(frozen=True, slots=True)
class _UnattackedBatch:
    """What a batch of pairs is made of.

    Attributes:
        images: (B, 3, H, W) uint8.
        tell: For each image the caption, then every question, as served, with their right answers;
            called where the attack needs them alone.
    """

    images: Tensor
    tell: Callable[[], list[list[Dialogue]]]


def make_pairs(world: World, victim: Victim, folder: Path, settings: PairSettings) -> None:
    """Attack scenes of the train split by PGD, one way and one ε a batch, into ``folder``."""

    def batch_of(numbers: range) -> _UnattackedBatch:
        batch = scene_batch(world, "train", numbers, seed=settings.seed + 20)
        captions = [references[0] for references in batch.captions]
        return _UnattackedBatch(batch.images, partial(_dialogues, captions, batch.questions))

    _attack_batches(batch_of, victim, folder, settings)


def make_folder_pairs(
    images: ImageFolder, victim: Victim, folder: Path, settings: PairSettings
) -> None:
    """Attack the pictures of the train split, each as often as it takes, as scenes are attacked.

    They come in another order every time.

    Raises:
        LabError: The split has fewer than two pictures: a targeted attack heads for another one.
    """
    paths = images.first("train", len(images.paths["train"]))
    if len(paths) < 2:
        raise LabError(f"only one picture of {images.root} falls to the train split: give more")
    labeler = PseudoLabeler(images, victim)

    def batch_of(numbers: range) -> _UnattackedBatch:
        chosen = [paths[_place(number, len(paths), settings.seed)] for number in numbers]
        squares = images.images(chosen)
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        return _UnattackedBatch(pixels, partial(_tell, labeler, chosen, squares))

    _attack_batches(batch_of, victim, folder, settings)


def _place(number: int, num_pictures: int, seed: int) -> int:
    """Which picture is the ``number``-th, where every round shuffles all of them anew."""
    turn, place = divmod(number, num_pictures)
    return int(np.random.default_rng([seed, 8, turn]).permutation(num_pictures)[place])


def _tell(
    labeler: PseudoLabeler, paths: list[Path], squares: list[np.ndarray]
) -> list[list[Dialogue]]:
    told = labeler(paths, squares)
    return _dialogues([t.captions[0] for t in told], [t.questions for t in told])


def make_photo_pairs(
    photos: PhotoSource, victim: ClassifierVictim, folder: Path, settings: PairSettings
) -> None:
    """Attack crops of training photos by PGD, away from what the classifier makes of them.

    Images are of 224 px.

    Raises:
        LabError: The classifier is not the one that training may see.
    """
    if victim.name != TRAINING_CLASSIFIER:
        raise LabError(f"{victim.name} is held out: only {TRAINING_CLASSIFIER} may be trained on")
    for number, path in settings.batches_due(folder):
        rng = np.random.default_rng([settings.seed, 7, number])
        crops = photo_crops(photos, settings.batch_size, PHOTO_SIDE_PX, rng)
        clean = crops.to(victim.device).float() / 255
        way = list(PHOTO_GOALS)[number % len(PHOTO_GOALS)]
        epsilon = float(rng.uniform(*EPSILON_RANGE))
        config = _training_attack(epsilon, settings.steps, PHOTO_GOALS[way])
        _attack_into(path, clean, _photo_objective(way, victim, clean), config, rng)


def _photo_objective(way: str, victim: ClassifierVictim, clean: Tensor) -> Objective:
    if way == "features":
        with torch.no_grad():
            wanted = victim.encoder_features(clean)

        def objective(images: Tensor) -> Tensor:
            features = victim.encoder_features(images)
            return (1 - torch.cosine_similarity(features, wanted, dim=-1)).mean(dim=1)

        return objective
    labels = victim.predict(clean)
    return (class_margin if way == "margin" else class_loss)(victim, labels)


def _attack_batches(
    batch_of: Callable[[range], _UnattackedBatch],
    victim: Victim,
    folder: Path,
    settings: PairSettings,
) -> None:
    for number, path in settings.batches_due(folder):
        first = number * settings.batch_size
        rng = np.random.default_rng([settings.seed, 5, number])
        batch = batch_of(range(first, first + settings.batch_size))
        way = list(GOALS)[number % len(GOALS)]
        epsilon = float(rng.uniform(*EPSILON_RANGE))
        pixels = batch.images.permute(0, 2, 3, 1).contiguous()
        clean = dequantise(pixels).contiguous().to(victim.device)
        config = _training_attack(epsilon, settings.steps, GOALS[way])
        _attack_into(path, clean, _objective(way, victim, batch, clean), config, rng)


def _training_attack(epsilon: float, steps: int, goal: Goal) -> AttackConfig:
    """The attack that pairs are made by.

    Raises:
        ValueError: Its family is held out.
    """
    return AttackConfig(name="pgd", epsilon=epsilon, steps=steps, goal=goal).for_training()


def _attack_into(
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


def _dialogues(
    captions: Sequence[str], questions: Sequence[Sequence[_AskedAndAnswered]]
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


def _objective(way: str, victim: Victim, batch: _UnattackedBatch, clean: Tensor) -> Objective:
    """What the attacker wants; targets are the neighbouring image or its caption."""
    if way == "encoder-away":
        return encoder_distance(victim, clean)
    if way == "encoder-towards":
        return encoder_distance(victim, clean.roll(1, 0), towards=True)
    truths = batch.tell()
    if way == "targeted":
        captions = [dialogues[0] for dialogues in truths]
        return targeted_loss(victim, [captions[-1], *captions[:-1]])
    return language_objective(GOALS[way], victim, truths)
