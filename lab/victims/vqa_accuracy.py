"""VQA accuracy: an answer beside what ten people said, as the VQA challenge's own code marks it.

Antol et al. 2015, "VQA: Visual Question Answering", and GT-Vision-Lab/VQA, `vqaEval.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["normalise_vqa", "vqa_accuracy"]

_NUM_AGREEING = 3
"""So many others who said the same make an answer wholly right."""
_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
    you're you've
"""
"""What the official table restores where one apostrophe is missing."""


def _without_one(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


_CONTRACTIONS = {
    **{short: word for word in _CONTRACTED.split() for short in _without_one(word)},
    "somebody'd": "somebodyd",  # as the official table has it
}


def normalise_vqa(text: str) -> str:
    """An answer as the challenge compares it.

    Punctuation goes (or becomes a blank where it joins two words), numbers become digits, articles
    go, missing apostrophes come back, and all is lower case.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in _PUNCTUATION:
        is_loose = f"{mark} " in text or f" {mark}" in text or _THOUSANDS.search(text)
        bare = bare.replace(mark, "" if is_loose else " ")
    words = (_DIGITS.get(word, word) for word in _PERIOD.sub("", bare).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """How right an answer is, in [0, 1]: min(others who said it / 3, 1), a mean over all people.

    Each of the people is left out once, so that with ten people it is a mean over subsets of nine.

    Args:
        said: the answer.
        answers: what each of the people said; at least one.

    Raises:
        ValueError: where nobody said anything.
    """
    if not answers:
        raise ValueError("VQA accuracy needs the answers of people")
    own = normalise_vqa(said)
    agrees = [normalise_vqa(answer) == own for answer in answers]
    shares = [min((sum(agrees) - agree) / _NUM_AGREEING, 1.0) for agree in agrees]
    return sum(shares) / len(shares)
