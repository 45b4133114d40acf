"""CIDEr is pycocoevalcap's; naming is word for word."""

import pytest
from pycocoevalcap.cider.cider import Cider

from codefend.lab.evaluate.scores import cider_scores, names_all, tokenise_caption

REFERENCES = [
    ("A red car, to the left of a cat.", "there is a car"),
    ("a green apple at the top", "an apple"),
    ("two dogs on a boat", "dogs in a boat"),
]
CAPTIONS = {0: "a red car left of a cat", 1: "an apple at the top", 2: "a cat"}


def test_cider_equals_the_reference_scorer():
    texts = {
        0: ["a red car to the left of a cat", "there is a car"],
        1: ["a green apple at the top", "an apple"],
        2: ["two dogs on a boat", "dogs in a boat"],
    }
    mean, scores = Cider().compute_score(texts, {i: [text] for i, text in CAPTIONS.items()})
    ours = cider_scores(CAPTIONS, REFERENCES)
    assert ours == pytest.approx(scores)
    assert ours.mean() == pytest.approx(mean)
    assert ours[0] > ours[2]


def test_part_of_the_scenes_scores_as_in_the_whole():
    whole = cider_scores(CAPTIONS, REFERENCES)
    assert cider_scores({1: CAPTIONS[1]}, REFERENCES) == pytest.approx(whole[1:2])


@pytest.mark.parametrize(
    ("caption", "objects", "named"),
    [
        ("A hot-air balloon above a cat.", ("hot air balloon", "cat"), True),
        ("a category", ("cat",), False),
        ("a cat", ("cat", "dog"), False),
        ("anything", (), True),
    ],
)
def test_names_all(caption, objects, named):
    assert names_all(caption, objects) is named


def test_tokeniser_drops_punctuation():
    assert tokenise_caption('  "A cat", (and) a dog...') == "a cat and a dog"
