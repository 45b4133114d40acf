"""What an attacker gains who sends the same upload again (T3): the worst answer, or a vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from codefend.lab.evaluate.marks import Marks
from codefend.lab.evaluate.outcomes import Outcome
from codefend.lab.victims.answers import normalise

__all__ = ["majority", "worst_repeat"]


def majority(outcomes: Sequence[Outcome]) -> Outcome:
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
    return Outcome(captions=captions, answers=answers, psnr_db=[], ssim=[])


def _winner(texts: Sequence[str]) -> str:
    counts = Counter(normalise(text) for text in texts)
    most = max(counts.values())
    return next(text for text in texts if counts[normalise(text)] == most)


def worst_repeat(marks: Marks) -> Marks:
    """Item by item the worst of all repeats: an attacker needs one that succeeds.

    Args:
        marks: with one row a repeat.

    Returns:
        Marks with a single row.
    """
    lowest = {
        name: getattr(marks, name).min(axis=0, keepdims=True)
        for name in ("right", "cider", "named", "psnr_db", "ssim")
    }
    highest = {name: getattr(marks, name).max(axis=0, keepdims=True) for name in ("refused", "hit")}
    return replace(marks, **lowest, **highest)
