"""Character errors worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codefend.lab.documents.document import Document, TextLine
from codefend.lab.reading import Word, character_errors, edit_distance

LINES = (
    TextLine("Save picture", (10, 10, 110, 30)),
    TextLine("12:30", (300, 10, 350, 30)),
    TextLine("Open", (10, 50, 50, 70)),
)
DOCUMENT = Document(np.zeros((80, 400, 3), np.uint8), LINES, "screen", 16, 0)


@pytest.mark.parametrize(
    ("said", "truth", "edits"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("flaw", "lawn", 2),
    ],
)
def test_edit_distance(said, truth, edits):
    assert edit_distance(said, truth) == edits


@given(st.text("ab ", max_size=8), st.text("ab ", max_size=8), st.text("ab ", max_size=8))
def test_edit_distance_is_a_metric(one, two, three):
    assert edit_distance(one, two) == edit_distance(two, one)
    assert (edit_distance(one, two) == 0) == (one == two)
    assert edit_distance(one, three) <= edit_distance(one, two) + edit_distance(two, three)


RIGHT = [
    Word("picture", (55, 11, 110, 29)),
    Word("12:30", (300, 11, 349, 29)),
    Word("Save", (10, 11, 48, 29)),
    Word("Open", (11, 51, 49, 69)),
]


def test_the_order_of_reading_does_not_count():
    assert character_errors(DOCUMENT, RIGHT) == 0


def test_unread_lines_count_whole():
    assert character_errors(DOCUMENT, RIGHT[:3]) == len("Open")
    assert character_errors(DOCUMENT, []) == DOCUMENT.num_characters


def test_a_wrong_letter_and_a_lost_blank():
    wrong = [Word("Savepicturc", (10, 11, 110, 29)), *RIGHT[1:2], *RIGHT[3:]]
    assert character_errors(DOCUMENT, wrong) == 2


def test_words_out_of_nowhere_count():
    stray = Word("ghost", (200, 60, 240, 78))
    assert character_errors(DOCUMENT, [*RIGHT, stray]) == 5


def test_a_word_just_beside_its_line_belongs_to_it():
    moved = [*RIGHT[:3], Word("Open", (11, 65, 49, 79))]
    assert character_errors(DOCUMENT, moved) == 0


def test_typographic_quotes_are_quotes():
    document = Document(
        np.zeros((9, 9, 3), np.uint8), (TextLine("it's", (0, 0, 9, 9)),), "page", 9, 0
    )
    assert (
        character_errors(document, [Word("it\N{RIGHT SINGLE QUOTATION MARK}s", (0, 0, 9, 9))]) == 0
    )
