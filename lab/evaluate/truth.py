"""What the evaluation needs to know of a scene; anything that has it can be evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue

__all__ = ["AskedQuestion", "TrueScene", "scene_digest", "truths"]


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
    """An image and all that is true of it."""

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


def scene_digest(scenes: Sequence[TrueScene]) -> str:
    """A hash of images and truths: the same for the same scenes in the same order."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(scene.image.tobytes())
        for dialogue in truths(scene):
            digest.update(f"{dialogue.prompt}\0{dialogue.answer}\0".encode())
    return digest.hexdigest()
