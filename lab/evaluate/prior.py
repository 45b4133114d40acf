"""What can be answered without the image: the floor under every VQA accuracy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from codefend.lab.evaluate.truth import AskedQuestion
from codefend.lab.victims.answers import normalise

__all__ = ["QuestionPrior"]


class QuestionPrior:
    """The most frequent answer to a question, by its text; by its type where the text is new."""

    def __init__(self, questions: Iterable[AskedQuestion]) -> None:
        """Counts answers.

        Args:
            questions: from scenes that are not tested.
        """
        by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
        by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for question in questions:
            by_text[normalise(question.question)][question.answer] += 1
            by_kind[question.kind][question.answer] += 1
        self._by_text = {text: answers.most_common(1)[0][0] for text, answers in by_text.items()}
        self._by_kind = {kind: answers.most_common(1)[0][0] for kind, answers in by_kind.items()}

    def answer(self, question: AskedQuestion) -> str:
        """The guess; empty for a type never counted."""
        guess = self._by_text.get(normalise(question.question))
        return self._by_kind.get(question.kind, "") if guess is None else guess
