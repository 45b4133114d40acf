"""Renders the prompt template around a question; the evaluation and the service render alike."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "GENERATOR",
    "PLACEHOLDER",
    "SHIPPED_TEMPLATES",
    "Task",
    "Template",
    "read_templates",
    "render",
]

SHIPPED_TEMPLATES = Path(__file__).with_name("templates.json")
PLACEHOLDER = "{question}"
# Beside a generator's adapter: its name and version.
GENERATOR = "generator.json"


class Task(StrEnum):
    """What the model is asked to do; each task has a template of its own."""

    CAPTION = "caption"
    VQA = "vqa"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Template:
    """One named, versioned text with exactly one place for the question.

    Attributes:
        name: What the template is called in a response.
        version: Changes whenever the text does.
        text: The text, with `{question}` once.
        default_question: Asked when the caller brings no question; None makes a question required.
        provenance: Who found it: command, seed and figures; nothing for a text that is plain.
    """

    name: str
    version: str
    text: str
    default_question: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not all(isinstance(value, str) for value in (self.name, self.version, self.text)):
            msg = "name, version and text of a template are strings"
            raise ValueError(msg)
        if self.text.count(PLACEHOLDER) != 1:
            msg = f"template {self.name} must hold {PLACEHOLDER} exactly once"
            raise ValueError(msg)

    def fill(self, question: str | None = None) -> str:
        """Puts the question in its place.

        The question is inserted, never interpreted: braces in it mean nothing.

        Raises:
            ValueError: There is neither a question nor a default one.
        """
        asked = question if question is not None else self.default_question
        if asked is None:
            msg = f"template {self.name} needs a question"
            raise ValueError(msg)
        return self.text.replace(PLACEHOLDER, asked)

    @property
    def around(self) -> tuple[str, str]:
        """What stands before the question, and behind it."""
        before, _, behind = self.text.partition(PLACEHOLDER)
        return before, behind

    @property
    def instructions(self) -> str:
        """What the text says beside the question."""
        parts = (part.strip() for part in self.around)
        return " ".join(part for part in parts if part)

    def with_prefix(self, prefix: str, *, name: str, version: str) -> "Template":
        """Another text around the same question: a prefix that was written for it."""
        text = f"{prefix} {PLACEHOLDER}"
        return replace(self, name=name, version=version, text=text)

    def without_prompt(self) -> "Template":
        """The question alone, and the default one."""
        return replace(self, text=PLACEHOLDER)


def read_templates(path: Path = SHIPPED_TEMPLATES) -> dict[Task, Template]:
    """Reads a template file: one object per task.

    Raises:
        ValueError: A task is missing, or a template is malformed.
        OSError: The file cannot be read.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        msg = f"{path.name} holds no object"
        raise ValueError(msg)
    missing = [task.value for task in Task if task.value not in entries]
    if missing:
        msg = f"{path.name} has no template for {', '.join(missing)}"
        raise ValueError(msg)
    try:
        return {task: Template(**entries[task.value]) for task in Task}
    except (TypeError, AttributeError) as error:
        msg = f"{path.name}: a template has name, version, text and perhaps default_question"
        raise ValueError(msg) from error


@cache
def _shipped_templates() -> dict[Task, Template]:
    return read_templates()


def render(task: Task | str, question: str | None = None) -> str:
    """Renders the shipped template of a task.

    Raises:
        ValueError: The task is unknown, or it needs a question and none is given.
    """
    return _shipped_templates()[Task(task)].fill(question)
