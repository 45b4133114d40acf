"""What the victim says about defended images, kept on disk; rows are computed from it alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from codefend.lab.baselines.defence import NO_DEFENCE, Defence, defend
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.experiments.store import digest_of, write_atomically
from codefend.lab.victims.dialogue import CAPTION_REQUEST
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS, generate
from codefend.lab.victims.victim import Victim

__all__ = ["Condition", "Interviewer", "Outcome", "plain_prompt"]


def plain_prompt(task: str, question: str | None) -> str:
    """The question as it is: what an undefended model is asked."""
    return CAPTION_REQUEST if question is None else question


@dataclass(frozen=True, slots=True)
class Condition:
    """A way to stand before the model: a defence of the image, and a way to ask.

    Attributes:
        name: as in the report's ``defence``.
        defence: what happens to the image.
        prompt: maps a task (``caption`` or ``vqa``) and a question to what is asked.
    """

    name: str
    defence: Defence
    prompt: Callable[[str, str | None], str] = plain_prompt


@dataclass(frozen=True, slots=True)
class Outcome:
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
class Interviewer:
    """Defends images, asks the victim about them, and remembers every answer.

    Attributes:
        victim: who is asked.
        folder: where outcomes are kept.
        batch_size: most prompts at once.
    """

    victim: Victim
    folder: Path
    batch_size: int = 256
    _last: tuple[str, list[np.ndarray]] = ("", [])

    def __call__(
        self,
        condition: Condition,
        images: Sequence[np.ndarray],
        scenes: Sequence[TrueScene],
        *,
        seed: int,
        with_captions: bool = True,
        with_answers: bool = True,
    ) -> Outcome:
        """The outcome of ``images`` under ``condition``; read from disk where it is known.

        Args:
            condition: defence and prompt.
            images: what is uploaded, (H, W, 3) uint8 each.
            scenes: what is true of them.
            seed: of the defence's noise.
            with_captions: whether captions are asked for.
            with_answers: whether the scenes' questions are asked.
        """
        captions = [[condition.prompt("caption", None)] if with_captions else [] for _ in scenes]
        asked = [
            [condition.prompt("vqa", q.question) for q in scene.questions] if with_answers else []
            for scene in scenes
        ]
        uploads = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
        defended = digest_of(uploads, condition.defence.name, condition.defence.setting, seed)
        key = digest_of(self.victim.sha256, defended, captions, asked)
        path = self.folder / f"{key}.json"
        if path.exists():
            return Outcome(**json.loads(path.read_text(encoding="utf-8")))
        seen = self._defend(condition.defence, images, defended, seed)
        outcome = self._ask(seen, scenes, captions, asked, condition.defence is not NO_DEFENCE)
        write_atomically(path, json.dumps(asdict(outcome)).encode())
        return outcome

    def _defend(
        self, defence: Defence, images: Sequence[np.ndarray], key: str, seed: int
    ) -> list[np.ndarray]:
        """Defended images; the last are kept, for a condition that differs in its prompt alone."""
        if self._last[0] != key:
            self._last = (key, defend(defence, images, seed=seed))
        return self._last[1]

    def _ask(
        self,
        images: list[np.ndarray],
        scenes: Sequence[TrueScene],
        captions: list[list[str]],
        asked: list[list[str]],
        is_defended: bool,
    ) -> Outcome:
        said = generate(
            self.victim,
            images,
            captions,
            max_new_tokens=MAX_CAPTION_TOKENS,
            batch_size=self.batch_size,
        )
        answers = generate(
            self.victim,
            images,
            asked,
            max_new_tokens=MAX_ANSWER_TOKENS,
            batch_size=self.batch_size,
        )
        references = [scene.image for scene in scenes]
        psnr_db, ssim = fidelity(images, references) if is_defended else ([], [])
        return Outcome([text for texts in said for text in texts], answers, psnr_db, ssim)
