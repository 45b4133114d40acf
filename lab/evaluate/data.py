"""What an evaluation asks about: scenes of the embedded world, or a folder of the user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from codefend.lab.errors import LabError
from codefend.lab.experiments.store import Store, digest_of
from codefend.lab.folders.folder import AnsweredQuestion, ImageFolder, Truth
from codefend.lab.folders.pseudo_labels import GENERIC_QUESTIONS, FolderScene, PseudoLabeler
from codefend.lab.victims.answers import normalise
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.lab.world.language import questions
from codefend.lab.world.layout import Split, sample_layout
from codefend.lab.world.scenes import scenes as scenes_of

__all__ = [
    "AskedQuestion",
    "Material",
    "TrueScene",
    "folder_material",
    "target_captions",
    "training_questions",
    "truths",
    "world_material",
    "world_scenes",
]

_BATCH = 64


class AskedQuestion(Protocol):
    """A question, its only right answer, and its type."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """What is right."""

    @property
    def kind(self) -> str:
        """Its type."""


class TrueScene(Protocol):
    """An image and all that is true of it; anything that has it can be evaluated."""

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8."""

    @property
    def captions(self) -> tuple[str, ...]:
        """Right captions; the first is the one that an attack leads away from."""

    @property
    def questions(self) -> tuple[AskedQuestion, ...]:
        """Questions with right answers."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of what stands in it."""


def truths(scene: TrueScene) -> list[Dialogue]:
    """The caption and every question of a scene with their right answers."""
    caption = Dialogue(CAPTION_REQUEST, scene.captions[0])
    return [caption, *(Dialogue(q.question, q.answer) for q in scene.questions)]


def world_scenes(world: World, split: Split, num: int, *, seed: int) -> Sequence[TrueScene]:
    """The first `num` scenes of a split's stream."""
    found: list[TrueScene] = []
    for start in range(0, num, _BATCH):
        found += scenes_of(split, min(_BATCH, num - start), seed, world, start=start)
    return found


def training_questions(num_scenes: int, *, seed: int) -> Iterator[AskedQuestion]:
    """Questions about so many training layouts; no image is drawn for them."""
    rng = np.random.default_rng(seed)
    for _ in range(num_scenes):
        yield from questions(sample_layout(rng, "train", num_photos=1), rng)


def target_captions(scenes: Sequence[TrueScene], *, seed: int = 0) -> list[str]:
    """For each scene the caption of another scene: another text, and no object in common.

    Args:
        scenes: where captions are taken from; at least one other that will do for each.
        seed: of the choice.

    Raises:
        LabError: where some scene shares its caption or an object with every other.
    """
    rng = np.random.default_rng(seed)
    objects = [frozenset(scene.objects) for scene in scenes]
    targets = []
    captions = [normalise(scene.captions[0]) for scene in scenes]
    for index in range(len(scenes)):
        order = (int(other) for other in rng.permutation(len(scenes)))
        others = (o for o in order if captions[o] != captions[index])
        other = next((o for o in others if not objects[o] & objects[index]), None)
        if other is None:
            raise LabError(
                f"scene {index} shares its caption or an object with every other scene: "
                "use more scenes"
            )
        targets.append(scenes[other].captions[0])
    return targets


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
    labeler, store = PseudoLabeler(images, victim), Store(out / "truths")
    return Material(
        _scenes(images, labeler, tested, store),
        _scenes(images, labeler, validation, store),
        _note(images, len(tested), len(validation)),
    )


def _scenes(
    images: ImageFolder, labeler: PseudoLabeler, paths: Sequence[Path], store: Store
) -> list[TrueScene]:
    squares = images.images(paths)
    told = _cached_truths(labeler, paths, squares, store)
    return [
        FolderScene(square, truth.captions, truth.questions)
        for square, truth in zip(squares, told, strict=True)
    ]


def _cached_truths(
    labeler: PseudoLabeler, paths: Sequence[Path], squares: Sequence[np.ndarray], store: Store
) -> list[Truth]:
    if labeler.folder.truths:
        return labeler(paths, squares)
    key = digest_of(labeler.victim.sha256, squares, GENERIC_QUESTIONS)
    told = store.json(key, lambda: [asdict(truth) for truth in labeler(paths, squares)])
    return [
        Truth(
            tuple(fields["captions"]),
            tuple(AnsweredQuestion(**asked) for asked in fields["questions"]),
        )
        for fields in told
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
