"""From words found in a picture to the number of characters that were read wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codefend.lab.documents.document import Box, Document, Line

__all__ = ["Word", "character_errors", "edit_distance"]

# What the eye does not tell apart, written in one way.
_SAME = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": "-", "–": "-"})  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Word:
    """A word as read, and where: left, top, right, bottom in pixels."""

    text: str
    box: Box


def character_errors(document: Document, words: Sequence[Word]) -> int:
    """Edits between what a document says and what was read of it.

    Every word goes to the line in which its centre lies, so that the order in which a reader takes
    columns and buttons does not count; a word in no line counts as so many insertions.

    Args:
        document: the truth.
        words: as read, in pixels of the document.
    """
    read: list[list[Word]] = [[] for _ in document.lines]
    num_stray = 0
    for word in words:
        number = _line_of(word, document.lines)
        if number is None:
            num_stray += len(word.text)
        else:
            read[number].append(word)
    return num_stray + sum(map(_errors_of, document.lines, read))


def _errors_of(line: Line, words: Sequence[Word]) -> int:
    in_order = sorted(words, key=lambda word: word.box[0])
    said = " ".join(word.text for word in in_order).translate(_SAME)
    return edit_distance(said, line.text)


def _line_of(word: Word, lines: Sequence[Line]) -> int | None:
    """The line with the word's centre in it, or within half its height above, below or beside."""
    x, y = (word.box[0] + word.box[2]) / 2, (word.box[1] + word.box[3]) / 2
    distances = [_distance(line.box, x, y) for line in lines]
    nearest = min(range(len(lines)), key=distances.__getitem__, default=None)
    if nearest is None:
        return None
    _, top, _, bottom = lines[nearest].box
    return nearest if distances[nearest] <= (bottom - top) / 2 else None


def _distance(box: Box, x: float, y: float) -> float:
    left, top, right, bottom = box
    return max(left - x, x - right, 0.0) + max(top - y, y - bottom, 0.0)


def edit_distance(said: str, truth: str) -> int:
    """Fewest insertions, deletions and substitutions: Levenshtein 1966."""
    previous = list(range(len(truth) + 1))
    for row, character in enumerate(said, start=1):
        current = [row]
        for column, wanted in enumerate(truth, start=1):
            replaced = previous[column - 1] + (character != wanted)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]
