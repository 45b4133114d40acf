"""What the victim says about defended images, kept on disk; rows are computed from it alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.evaluate.data import TrueScene
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.experiments.responder import Responder
from codefend.lab.experiments.store import Store
from codefend.lab.victims.answers import normalise
from codefend.lab.victims.dialogue import CAPTION_REQUEST
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS, generate
from codefend.lab.victims.victim import Victim

__all__ = ["Condition", "Responses", "VictimResponder", "majority", "plain_prompt"]


def plain_prompt(task: str, question: str | None) -> str:
    """The question as it is: what an undefended model is asked."""
    return CAPTION_REQUEST if question is None else question


@dataclass(frozen=True, slots=True)
class Condition:
    """A way to stand before the model: a defence of the image, and a way to ask.

    Attributes:
        name: as in the report's `defence`.
        defence: what happens to the image.
        prompt: maps a task (`caption` or `vqa`) and a question to what is asked.
    """

    name: str
    defence: Defence
    prompt: Callable[[str, str | None], str] = plain_prompt


@dataclass(frozen=True, slots=True)
class Responses:
    """What came of a set of images, scene by scene.

    Attributes:
        captions: one a scene; empty where none were asked for.
        answers: one a question, or no list at all.
        psnr_db: of the defended image against the clean one; empty where nothing defends it.
        ssim: likewise.
    """

    captions: list[str]
    answers: list[list[str]]
    psnr_db: list[float]
    ssim: list[float]


@dataclass(slots=True)
class VictimResponder:
    """Defends images, asks the victim about them, and remembers every answer.

    Attributes:
        victim: who is asked.
        responder: keeps outcomes.
        batch_size: most prompts at once.
    """

    victim: Victim
    responder: Responder
    batch_size: int = 256

    @classmethod
    def within(cls, victim: Victim, out: Path, *, batch_size: int = 256) -> VictimResponder:
        """Keeps outcomes below the folder of a report."""
        return cls(victim, Responder(Store(out / "outcomes")), batch_size)

    def __call__(
        self,
        condition: Condition,
        images: Sequence[np.ndarray],
        scenes: Sequence[TrueScene],
        *,
        seeds: int,
        with_captions: bool = True,
        with_answers: bool = True,
    ) -> list[Responses]:
        """What is said of `images` under `condition`, once a seed; read from disk where known.

        Args:
            condition: defence and prompt.
            images: what is uploaded, (H, W, 3) uint8 each.
            scenes: what is true of them.
            seeds: of the defence's noise; a defence without noise is asked about once.
            with_captions: whether captions are asked for, of scenes that have any.
            with_answers: whether the scenes' questions are asked.
        """
        captions = [
            [condition.prompt("caption", scene.request)] if with_captions and scene.captions else []
            for scene in scenes
        ]
        questions = [
            [condition.prompt("vqa", q.question) for q in scene.questions] if with_answers else []
            for scene in scenes
        ]
        references = None
        if condition.defence is not NO_DEFENCE:
            references = [scene.image for scene in scenes]
        ask = partial(self._ask, captions, questions, references)
        asked = [self.victim.sha256, captions, questions]
        found = self.responder(condition.defence, images, ask, asked=asked, seeds=seeds)
        return [Responses(**fields) for fields in found]

    def _ask(
        self,
        captions: list[list[str]],
        questions: list[list[str]],
        references: list[np.ndarray] | None,
        images: list[np.ndarray],
    ) -> dict[str, Any]:
        """Answers, and likeness to the clean images where something defends them."""

        def said(prompts: list[list[str]], most: int) -> list[list[str]]:
            options = {"max_new_tokens": most, "batch_size": self.batch_size}
            return generate(self.victim, images, prompts, **options)

        told = [text for texts in said(captions, MAX_CAPTION_TOKENS) for text in texts]
        answers = said(questions, MAX_ANSWER_TOKENS)
        psnr_db, ssim = ([], []) if references is None else fidelity(images, references)
        return {"captions": told, "answers": answers, "psnr_db": psnr_db, "ssim": ssim}


def majority(outcomes: Sequence[Responses]) -> Responses:
    """One outcome with the most frequent text of each item; of equally frequent ones the first.

    Texts are compared as answers are, normalised; as little as two equal ones win. Fidelity has no
    vote and is left out.

    Args:
        outcomes: of one set of uploads, under different noise.
    """
    captions = [_winner(texts) for texts in zip(*(o.captions for o in outcomes), strict=True)]
    answers = [
        [_winner(texts) for texts in zip(*scene, strict=True)]
        for scene in zip(*(o.answers for o in outcomes), strict=True)
    ]
    return Responses(captions=captions, answers=answers, psnr_db=[], ssim=[])


def _winner(texts: Sequence[str]) -> str:
    counts = Counter(normalise(text) for text in texts)
    most = max(counts.values())
    return next(text for text in texts if counts[normalise(text)] == most)
