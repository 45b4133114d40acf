"""What pictures of a folder show: as the folder says, or as the victim itself says of them clean.

Where nobody wrote down what is true, the model's answers to the clean pictures stand for it: to be
right then means to agree with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from codefend.lab.folders.folder import AnsweredQuestion, ImageFolder, Truth
from codefend.lab.victims.answers import normalise
from codefend.lab.victims.dialogue import CAPTION_REQUEST
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS, generate
from codefend.lab.victims.victim import Victim

__all__ = ["GENERIC_QUESTIONS", "FolderScene", "PseudoLabeler"]

GENERIC_QUESTIONS: tuple[tuple[str, str], ...] = (
    ("What is the main thing in this picture? Answer with one or two words.", "what"),
    ("Where was this picture taken? Answer with one or two words.", "where"),
    ("Which colour covers most of this picture? Answer with one word.", "colour"),
    ("How many people are in this picture? Answer with a number.", "count"),
    ("Is there an animal in this picture? Answer yes or no.", "exists"),
    ("Is anything written in this picture? Answer yes or no.", "sign"),
)
"""What every picture is asked where the folder has no questions of its own; text, then type."""


@dataclass(frozen=True, slots=True)
class FolderScene:
    """A picture and what is true of it, as an evaluation reads it; objects are not known.

    Attributes:
        image: (H, W, 3) uint8.
        captions: right ones; none where captions are not asked for.
        questions: with right answers.
        objects: none.
        request: in what words a caption is asked for; the usual ones if None.
    """

    image: np.ndarray
    captions: tuple[str, ...]
    questions: tuple[AnsweredQuestion, ...]
    objects: tuple[str, ...] = ()
    request: str | None = None


@dataclass(frozen=True, slots=True)
class PseudoLabeler:
    """Says what is true; the victim is asked about a picture once.

    Attributes:
        folder: of the pictures.
        victim: who is asked where the folder says nothing.
    """

    folder: ImageFolder
    victim: Victim
    _labels: dict[Path, Truth] = field(default_factory=dict)

    def __call__(self, paths: Sequence[Path], images: Sequence[np.ndarray]) -> list[Truth]:
        """The truth of each picture; a question that the victim says nothing to is left out.

        Args:
            paths: of the pictures.
            images: what they show, (H, W, 3) uint8 each.
        """
        if self.folder.truths:
            return [self.folder.truths[path] for path in paths]
        unknown = {p: i for p, i in zip(paths, images, strict=True) if p not in self._labels}
        if unknown:
            labels = _ask(self.victim, list(unknown.values()))
            self._labels.update(zip(unknown, labels, strict=True))
        return [self._labels[path] for path in paths]


def _ask(victim: Victim, images: Sequence[np.ndarray]) -> list[Truth]:
    """What the victim says of clean images, asked as an evaluation asks it."""
    requests = [[CAPTION_REQUEST]] * len(images)
    captions = generate(victim, images, requests, max_new_tokens=MAX_CAPTION_TOKENS)
    questions = [[text for text, _ in GENERIC_QUESTIONS]] * len(images)
    answers = generate(victim, images, questions, max_new_tokens=MAX_ANSWER_TOKENS)
    return [
        Truth(
            captions=(caption,),
            questions=tuple(
                AnsweredQuestion(text, answer, kind)
                for (text, kind), answer in zip(GENERIC_QUESTIONS, said, strict=True)
                if normalise(answer)
            ),
        )
        for (caption,), said in zip(captions, answers, strict=True)
    ]
