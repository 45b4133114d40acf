"""Where an evaluation's scenes come from: the embedded world, or a folder of the user's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from codefend.lab.errors import LabError
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.evaluate.worlds import world_scenes
from codefend.lab.experiments.store import digest_of, write_atomically
from codefend.lab.folders.folder import AnsweredQuestion, ImageFolder, Truth
from codefend.lab.folders.pseudo_labels import GENERIC_QUESTIONS, FolderScene, PseudoLabeler
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.lab.world.layout import Split

__all__ = ["Material", "folder_material", "world_material"]


@dataclass(frozen=True, slots=True)
class Material:
    """What is evaluated.

    Attributes:
        tested: scenes that figures are about.
        validation: scenes that settings are chosen on, none of them tested.
        note: what a reader must know of them; empty for the embedded world.
    """

    tested: Sequence[TrueScene]
    validation: Sequence[TrueScene]
    note: str = ""


def world_material(
    world: Path, split: Split, *, num: int, num_validation: int, seed: int
) -> Material:
    """Scenes of the embedded world.

    Args:
        world: its file.
        split: of the tested scenes.
        num: how many.
        num_validation: how many settings are chosen on.
        seed: of the tested scenes; the others have the next.
    """
    scenes = World(world)
    return Material(
        world_scenes(scenes, split, num, seed=seed),
        world_scenes(scenes, "validation", num_validation, seed=seed + 1),
    )


def folder_material(
    images: ImageFolder, victim: Victim, split: Split, *, num: int, num_validation: int, out: Path
) -> Material:
    """Pictures of a folder, told about by itself or, where it says nothing, by the victim.

    Args:
        images: the folder.
        victim: who is asked then; what it said is kept, so that a resumed run has the same truth.
        split: of the tested pictures; of validation, those that no setting is chosen on.
        num: how many, where there are as many.
        num_validation: how many settings are chosen on.
        out: folder of what is kept.

    Raises:
        LabError: too few pictures fall to a split.
    """
    validation = images.first("validation", num_validation)
    tested = images.first(split, num)
    if split == "validation":
        tested = images.paths[split][num_validation : num_validation + num]
        if not tested:
            raise LabError(f"--num-validation leaves no validation picture of {images.root}")
    witness = PseudoLabeler(images, victim)
    return Material(
        _scenes(images, witness, tested, out),
        _scenes(images, witness, validation, out),
        _note(images, len(tested), len(validation)),
    )


def _scenes(
    images: ImageFolder, witness: PseudoLabeler, paths: Sequence[Path], out: Path
) -> list[TrueScene]:
    squares = images.images(paths)
    told = _kept_truths(witness, paths, squares, out / "truths")
    return [
        FolderScene(square, truth.captions, truth.questions)
        for square, truth in zip(squares, told, strict=True)
    ]


def _kept_truths(
    witness: PseudoLabeler, paths: Sequence[Path], squares: Sequence[np.ndarray], folder: Path
) -> list[Truth]:
    if witness.folder.truths:
        return witness(paths, squares)
    seen = sha256(b"".join(square.tobytes() for square in squares)).hexdigest()
    path = folder / f"{digest_of(witness.victim.sha256, seen, GENERIC_QUESTIONS)}.json"
    if not path.exists():
        told = [asdict(truth) for truth in witness(paths, squares)]
        write_atomically(path, json.dumps(told).encode())
    return [
        Truth(
            tuple(fields["captions"]),
            tuple(AnsweredQuestion(**asked) for asked in fields["questions"]),
        )
        for fields in json.loads(path.read_text(encoding="utf-8"))
    ]


def _note(images: ImageFolder, num_tested: int, num_validation: int) -> str:
    about = f"Data: {images.describe()}; {num_tested} tested, {num_validation} for settings. "
    if images.truths:
        truth = "What is right of them is what the folder's scenes.json says."
    else:
        truth = (
            "Nobody wrote down what is right of them: the undefended model's own answers to the "
            "clean images stand for it, so that accuracy means agreement with those answers, 100 % "
            "undefended and unattacked by definition, and CIDEr has one reference."
        )
    left_out = "Objects named and the question-only prior need the embedded world and are left out."
    return f"{about}{truth} {left_out}"
