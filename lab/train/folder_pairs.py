"""Pairs of a user's own pictures, attacked on the user's own model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from codefend.lab.errors import LabError
from codefend.lab.folders.folder import ImageFolder
from codefend.lab.folders.pseudo_labels import PseudoLabeler
from codefend.lab.train.pairs import UnattackedBatch, attack_batches, served_dialogues
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim

__all__ = ["make_folder_pairs"]


def make_folder_pairs(
    images: ImageFolder,
    victim: Victim,
    folder: Path,
    *,
    num_pairs: int,
    steps: int = 10,
    batch_size: int = 32,
    share: tuple[int, int] = (0, 1),
    seed: int = 0,
) -> None:
    """Attack the pictures of the train split, each as often as it takes, as scenes are attacked.

    They come in another order every time. Files are those of ``make_pairs``.

    Raises:
        LabError: The split has fewer than two pictures: a targeted attack heads for another one.
    """
    paths = images.first("train", len(images.paths["train"]))
    if len(paths) < 2:
        raise LabError(f"only one picture of {images.root} falls to the train split: give more")
    labeler = PseudoLabeler(images, victim)

    def batch_of(numbers: range) -> UnattackedBatch:
        chosen = [paths[_place(number, len(paths), seed)] for number in numbers]
        squares = images.images(chosen)
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        return UnattackedBatch(pixels, partial(_tell, labeler, chosen, squares))

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


def _place(number: int, num_pictures: int, seed: int) -> int:
    """Which picture is the ``number``-th, where every round shuffles all of them anew."""
    turn, place = divmod(number, num_pictures)
    return int(np.random.default_rng([seed, 8, turn]).permutation(num_pictures)[place])


def _tell(
    labeler: PseudoLabeler, paths: list[Path], squares: list[np.ndarray]
) -> list[list[Dialogue]]:
    told = labeler(paths, squares)
    return served_dialogues([t.captions[0] for t in told], [t.questions for t in told])
