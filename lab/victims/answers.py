"""When an answer counts as right; every rate in a report rests on this."""

from __future__ import annotations

import re

__all__ = ["is_match", "normalise"]

_PUNCTUATION = re.compile(r"[^\w\s]")
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> str:
    """Lower case without punctuation, articles and surplus blanks."""
    words = _PUNCTUATION.sub(" ", text.lower()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def is_match(answer: str, truth: str) -> bool:
    """Exact match after normalising both."""
    return normalise(answer) == normalise(truth)
