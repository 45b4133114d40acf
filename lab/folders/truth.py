"""What is true of a picture, and the file in which a folder may say it: the gallery's format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codefend.lab.errors import LabError

__all__ = ["SCENES_FILE", "AnsweredQuestion", "Truth", "read_scenes"]

SCENES_FILE = "scenes.json"


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question, its only right answer, and its type (``kind``)."""

    question: str
    answer: str
    kind: str = "any"


@dataclass(frozen=True, slots=True)
class Truth:
    """Right captions of a picture, at least one, and questions with their right answers."""

    captions: tuple[str, ...]
    questions: tuple[AnsweredQuestion, ...]


def read_scenes(folder: Path) -> dict[Path, Truth]:
    """What ``scenes.json`` tells of the pictures of a folder; nothing where there is no such file.

    A list of ``{"clean": path, "caption": text, "questions": [{"question", "answer"}]}``, paths
    relative to the folder. ``"captions"`` may give several, and a question its ``"kind"``; other
    fields, as the gallery has them, are passed over.

    Raises:
        LabError: the file is not of this form, or names a picture that is not there.
    """
    path = folder / SCENES_FILE
    if not path.exists():
        return {}
    try:
        scenes = json.loads(path.read_text(encoding="utf-8"))
        told = {folder / scene["clean"]: _truth(scene) for scene in scenes}
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path} is not in the gallery's format: {error!r}") from error
    missing = next((picture for picture in told if not picture.is_file()), None)
    if missing is not None:
        raise LabError(f"{path} names {missing}, which is not there")
    return told


def _truth(scene: dict[str, Any]) -> Truth:
    captions = tuple(scene.get("captions") or [scene["caption"]])
    questions = (
        AnsweredQuestion(asked["question"], asked["answer"], asked.get("kind", "any"))
        for asked in scene["questions"]
    )
    return Truth(captions, tuple(questions))
