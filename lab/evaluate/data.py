"""What an evaluation asks about: scenes of the embedded world, or a folder of the user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from codefend.lab.errors import LabError
from codefend.lab.experiments.store import Store, digest_of
from codefend.lab.folders.folder import AnsweredQuestion, ImageFolder, JudgedQuestion, Truth
from codefend.lab.folders.pseudo_labels import GENERIC_QUESTIONS, FolderScene, PseudoLabeler
from codefend.lab.folders.public import PublicExample, PublicSet, padded
from codefend.lab.victims.answers import is_match, normalise
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue
from codefend.lab.victims.victim import Victim
from codefend.lab.victims.vqa_accuracy import vqa_accuracy
from codefend.lab.world.compose import World
from codefend.lab.world.language import questions
from codefend.lab.world.layout import Split, sample_layout
from codefend.lab.world.scenes import scenes as scenes_of

__all__ = [
    "AskedQuestion",
    "Material",
    "TrueScene",
    "correctness",
    "folder_material",
    "public_material",
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
        """Right captions, the first of them attacked; none where captions are not asked for."""

    @property
    def questions(self) -> tuple[AskedQuestion, ...]:
        """Questions with right answers."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of what stands in it."""

    @property
    def request(self) -> str | None:
        """In what words a caption is asked for; the usual ones if None."""


def truths(scene: TrueScene) -> list[Dialogue]:
    """The caption, where there is one, and every question of a scene with their right answers."""
    request = scene.request or CAPTION_REQUEST
    captions = [Dialogue(request, caption) for caption in scene.captions[:1]]
    return [*captions, *(Dialogue(q.question, q.answer) for q in scene.questions)]


def correctness(said: str, asked: AskedQuestion) -> float:
    """How right an answer is, in [0, 1]: VQA accuracy where people judged, else an exact match."""
    if isinstance(asked, JudgedQuestion):
        return vqa_accuracy(said, asked.answers)
    return float(is_match(said, asked.answer))


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


def public_material(
    examples: PublicSet, split: Split, size_px: int, *, num: int, num_validation: int
) -> Material:
    """Examples of a public test set, in the order of its draw.

    Args:
        examples: the set.
        split: test: the first drawn are tested, and the last choose settings. validation: the last
            choose settings, and those before them are tested.
        size_px: side of the squares that pictures are laid on.
        num: how many are tested, where there are as many.
        num_validation: how many choose settings; none of their pictures is tested.

    Raises:
        LabError: too few examples, or a picture that is missing or cannot be read.
    """
    if split == "train":
        raise LabError(f"{examples.name} is a test set: nothing is trained on it")
    held = examples.last(num_validation + num, without=examples.examples[:num])
    validation = held[:num_validation]
    tested = examples.examples[:num] if split == "test" else held[num_validation:]
    if not tested or not validation:
        raise LabError(
            f"{examples.name}:{examples.root} has {len(examples.examples)} examples: too few for "
            f"--num-scenes {num} and --num-validation {num_validation}"
        )

    def scene(example: PublicExample) -> TrueScene:
        image = padded(example.picture, size_px)
        return FolderScene(image, example.captions, example.questions, request=example.request)

    note = f"Data: {examples.describe()}; {len(tested)} tested, {len(validation)} for settings. "
    note += f"Pictures are laid whole on squares of {size_px} px, grey where they do not reach. "
    note += "Objects named and the question-only prior need the embedded world and are left out."
    return Material([scene(one) for one in tested], [scene(one) for one in validation], note)


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
