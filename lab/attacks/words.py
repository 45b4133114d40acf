"""Names of everyday things, and which of them an image does not show; typographic attacks ask."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codefend.lab.victims.dialogue import Dialogue

__all__ = ["OBJECT_WORDS", "absent_words", "misleading_words", "names_any"]

OBJECT_WORDS: tuple[str, ...] = (
    *("dog", "cat", "bear", "lion", "frog", "pig", "cow", "owl", "fish", "rabbit", "turtle"),
    *("apple", "banana", "lemon", "carrot", "pizza", "burger", "cake", "bread", "egg", "cheese"),
    *("car", "taxi", "bus", "truck", "bicycle", "plane", "rocket", "ship", "train", "scooter"),
    *("umbrella", "key", "clock", "guitar", "ball", "book", "camera", "lamp", "chair", "cup"),
    *("crown", "bell", "hat", "phone"),
)
"""Short names that a victim is likely to know: the embedded world's and COCO's."""


def absent_words(truths: Sequence[Dialogue]) -> tuple[str, ...]:
    """Names of things that are not in the image.

    Args:
        truths: what is asked about the image, with the right answers.

    Raises:
        ValueError: where the truths name everything.
    """
    present = {w for d in truths for w in _words(d.answer)}
    present |= {w for d in truths if d.answer != "no" for w in _words(d.prompt)}
    absent = [word for word in OBJECT_WORDS if word not in present and f"{word}s" not in present]
    if not absent:
        raise ValueError("no known object is absent from the image")
    return tuple(absent)


def misleading_words(truths: Sequence[Dialogue]) -> tuple[str, ...]:
    """Of the absent things those that a question asks for in vain; all where none does.

    To write what is asked for misleads most: the answer turns from no to yes.
    """
    in_vain = {w for d in truths if d.answer == "no" for w in _words(d.prompt)}
    absent = absent_words(truths)
    return tuple(word for word in absent if word in in_vain) or absent


def names_any(text: str, words: Sequence[str]) -> bool:
    """Whether a text says any of these words."""
    return not set(_words(text)).isdisjoint(words)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
