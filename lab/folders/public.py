"""Public test sets in their official files' layout: COCO captions, VQAv2 and TextVQA.

Examples come in the order in which RobustVLM (Schlarmann et al. 2024, "Robust CLIP") draws its 500:
NumPy's legacy generator, seed 42, over the file's own order.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from codefend.lab.errors import LabError
from codefend.lab.folders.folder import JudgedQuestion, open_picture

__all__ = ["PublicExample", "PublicSet", "is_public", "open_public", "padded"]

SEED = 42
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
SHORT_CAPTION = "Provide a short caption for this image."
_GREY = (122, 116, 104)  # the mean colour that LLaVA lays pictures on


@dataclass(frozen=True, slots=True)
class PublicExample:
    """One picture to be described, or one question about one.

    Attributes:
        picture: its file.
        captions: what people wrote of it; none for a question.
        questions: the question with what people answered; none for a caption.
        request: in what words a caption is asked for.
    """

    picture: Path
    captions: tuple[str, ...] = ()
    questions: tuple[JudgedQuestion, ...] = ()
    request: str | None = None


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A test set.

    Attributes:
        name: as ``--data`` calls it.
        root: its folder.
        file: what says what is true.
        examples: all of them, as they are drawn.
    """

    name: str
    root: Path
    file: Path
    examples: Sequence[PublicExample]

    def last(self, num: int, *, without: Sequence[PublicExample]) -> list[PublicExample]:
        """The last ``num`` drawn, the last first, about none of the pictures of ``without``."""
        shown = {example.picture for example in without}
        others = (one for one in reversed(self.examples) if one.picture not in shown)
        return list(islice(others, num))

    def describe(self) -> str:
        """What is asked, of which file, and what is right."""
        what = "pictures" if self.examples[0].captions else "questions"
        truth = (
            "CIDEr compares with all captions that people wrote (times 100 it is the papers' scale)"
            if self.examples[0].captions
            else "accuracy is VQA accuracy: min(people who said so / 3, 1), a mean over subsets of "
            "nine of ten, after the challenge's normalisation; attacks lead away from the answer "
            "that most people gave"
        )
        return (
            f"{self.name}, {len(self.examples)} {what} of {self.file.name}, drawn as RobustVLM "
            f"does (seed {SEED}); {truth}"
        )


def is_public(source: str) -> bool:
    """Whether ``--data`` names a public test set: ``coco:DIR``, ``vqav2:DIR``, ``textvqa:DIR``."""
    return source.partition(":")[0] in _READERS and ":" in source


def open_public(source: str) -> PublicSet:
    """A public test set from its official files.

    Args:
        source: as ``is_public`` takes it.

    Raises:
        LabError: a file of the layout is missing, or not in the set's format.
    """
    name, _, folder = source.partition(":")
    root = Path(folder)
    file, read = _READERS[name](root)
    try:
        examples = list(read())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise LabError(f"{file} is not in the format of {name}: {error!r}") from error
    if not examples:
        raise LabError(f"{file} holds no example of {name}")
    order = np.random.RandomState(SEED).permutation(len(examples))
    return PublicSet(name, root, file, [examples[index] for index in order])


def padded(picture: Path, side_px: int) -> np.ndarray:
    """A picture whole in the middle of a square, (side, side, 3) uint8, as LLaVA lays it out.

    Raises:
        LabError: the file is missing, or no picture.
    """
    try:
        image = open_picture(picture, side_px)
    except FileNotFoundError as error:
        raise LabError(
            f"{picture} is named by the annotations, but not there: {picture.parent.name}/ must "
            "hold the set's pictures under their official names"
        ) from error
    except (OSError, ValueError) as error:
        raise LabError(f"{picture} is no picture that can be read: {error}") from error
    size = (side_px, side_px)
    return np.asarray(ImageOps.pad(image, size, Image.Resampling.BICUBIC, color=_GREY))


_Reader = tuple[Path, Callable[[], Iterable[PublicExample]]]
"""The file that says what is true, and what reads it."""


def _coco(root: Path) -> _Reader:
    """COCO captions: Karpathy's test split where its file is there, else all of val2014."""
    layout = "annotations/captions_val2014.json or dataset_coco.json (Karpathy), val2014/"
    names = ("dataset_coco.json", "karpathy_coco.json", "captions_val2014.json")
    file = _found(root, names, "coco", layout)
    _folder(root, "val2014", "coco", layout)
    reads = _official_captions if file.name == names[-1] else _karpathy_captions
    return file, lambda: reads(root, _json(file))


def _karpathy_captions(root: Path, told: Mapping[str, Any]) -> Iterator[PublicExample]:
    for image in told["images"]:
        if image["split"] == "test":
            captions = [sentence["raw"] for sentence in image["sentences"]]
            yield _captioned(root / image["filepath"] / image["filename"], captions)


def _official_captions(root: Path, told: Mapping[str, Any]) -> Iterator[PublicExample]:
    captions: defaultdict[int, list[str]] = defaultdict(list)
    for annotation in told["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    for image in told["images"]:
        if image["id"] in captions:
            yield _captioned(root / "val2014" / image["file_name"], captions[image["id"]])


def _captioned(picture: Path, captions: Sequence[str]) -> PublicExample:
    stripped = tuple(caption.strip() for caption in captions)
    return PublicExample(picture, captions=stripped, request=SHORT_CAPTION)


def _vqav2(root: Path) -> _Reader:
    questions, annotations = (
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
    )
    layout = f"{questions}, {annotations}, val2014/"
    asked = _found(root, (questions,), "vqav2", layout)
    file = _found(root, (annotations,), "vqav2", layout)
    folder = _folder(root, "val2014", "vqav2", layout)

    def read() -> Iterator[PublicExample]:
        answered = {each["question_id"]: each for each in _json(file)["annotations"]}
        for each in _json(asked)["questions"]:
            found = answered[each["question_id"]]
            picture = folder / f"COCO_val2014_{each['image_id']:012d}.jpg"
            answers = [given["answer"] for given in found["answers"]]
            likely = found["multiple_choice_answer"]
            yield _asked(picture, each["question"], answers, likely, found["answer_type"])

    return file, read


def _textvqa(root: Path) -> _Reader:
    layout = "TextVQA_0.5.1_val.json, train_images/"
    file = _found(root, ("TextVQA_0.5.1_val.json",), "textvqa", layout)
    folder = _folder(root, "train_images", "textvqa", layout)

    def read() -> Iterator[PublicExample]:
        for each in _json(file)["data"]:
            picture = folder / f"{each['image_id']}.jpg"
            likely = Counter(each["answers"]).most_common(1)[0][0]
            yield _asked(picture, each["question"], each["answers"], likely, "any")

    return file, read


_READERS: Mapping[str, Callable[[Path], _Reader]] = {
    "coco": _coco,
    "vqav2": _vqav2,
    "textvqa": _textvqa,
}


def _asked(
    picture: Path, question: str, answers: Sequence[str], likely: str, kind: str
) -> PublicExample:
    if not answers:
        raise ValueError(f"nobody answered {question!r}")
    asked = JudgedQuestion(question + SHORT_ANSWER, likely, kind, tuple(answers))
    return PublicExample(picture, questions=(asked,))


def _found(root: Path, names: Sequence[str], dataset: str, layout: str) -> Path:
    """The first of these files, in the folder itself or in ``annotations``."""
    places = [folder / name for name in names for folder in (root, root / "annotations")]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise LabError(
            f"{dataset}:{root} lacks {' or '.join(names)}; the layout of {dataset} is {layout}"
        )
    return found


def _folder(root: Path, name: str, dataset: str, layout: str) -> Path:
    if not (root / name).is_dir():
        raise LabError(f"{dataset}:{root} lacks {name}/; the layout of {dataset} is {layout}")
    return root / name


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
