"""How wrong a caption or an answer reads: all that a text-only attacker has to climb on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from codefend.lab.victims.answers import is_match, normalise

__all__ = ["answer_wrongness", "caption_wrongness"]


def answer_wrongness(said: str, truth: str) -> float:
    """1 where the answer counts as wrong, else 0."""
    return 0.0 if is_match(said, truth) else 1.0


def caption_wrongness(said: str, references: Sequence[str]) -> float:
    """How far a caption is from the nearest reference, in [0, 1].

    The mean of one minus the F1 score of its words and of the edit distance in words over the
    longer text: the first sees what is named, the second also in which order.

    Raises:
        ValueError: where there is no reference.
    """
    words = normalise(said).split()
    return min(_distance(words, normalise(reference).split()) for reference in references)


def _distance(words: Sequence[str], truth: Sequence[str]) -> float:
    longer = max(len(words), len(truth))
    if longer == 0:
        return 0.0
    shared = (Counter(words) & Counter(truth)).total()
    f1 = 2.0 * shared / (len(words) + len(truth))
    return 0.5 * (1.0 - f1) + 0.5 * _edits(words, truth) / longer


def _edits(words: Sequence[str], truth: Sequence[str]) -> int:
    """Levenshtein's distance in words."""
    row = list(range(len(truth) + 1))
    for number, word in enumerate(words, start=1):
        following = [number]
        for column, (diagonal, above) in enumerate(pairwise(row)):
            replaced = diagonal + (word != truth[column])
            following.append(min(replaced, above + 1, following[-1] + 1))
        row = following
    return row[-1]
