"""Average, worst and majority of repeats, on outcomes whose statistics are known."""

import pytest

from codefend.lab.evaluate.outcomes import Responses, majority
from codefend.lab.evaluate.scores import score, worst_repeat

# Ten purifications of two scenes with two questions each; scene 0 is a cat, scene 1 a car.
RIGHT = [["cat", "yes"], ["car", "yes"]]


def outcome(answers, captions=("a cat at the top", "a car at the top")):
    return Responses(
        captions=list(captions), answers=answers, psnr_db=[30.0, 20.0], ssim=[0.9, 0.8]
    )


TEN = [
    *([outcome(RIGHT)] * 5),
    outcome([["The Cat!", "yes"], ["car", "no"]], ("a dog", "a car at the top")),
    *([outcome([["dog", "yes"], ["bus", "no"]], ("a dog", "a car at the top"))] * 2),
    *([outcome([["cow", "yes"], ["bus", "no"]], ("a cow", "nothing"))] * 2),
]


@pytest.fixture
def marked(scenes):
    def of(outcomes):
        references = [scene.captions for scene in scenes[:2]]
        return score(outcomes, scenes[:2], references)

    return of


def test_average(marked):
    # 6, 10, 6 and 5 of ten answers are right.
    assert marked(TEN).right.mean() == pytest.approx((6 + 10 + 6 + 5) / 40)


def test_worst_counts_an_answer_that_is_ever_wrong(marked):
    worst = worst_repeat(marked(TEN))
    assert worst.right.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert worst.named.tolist() == [[0.0, 0.0]]
    assert worst.cider.shape == (1, 2)
    assert (worst.cider <= marked(TEN).cider).all()


def test_majority_is_the_most_frequent_text(marked):
    voted = majority(TEN)
    # Six of ten say cat, in two spellings; yes has five votes like no, and comes first.
    assert voted.answers == [["cat", "yes"], ["car", "yes"]]
    assert voted.captions == ["a cat at the top", "a car at the top"]
    assert marked([voted]).right.tolist() == [[1.0] * 4]
    assert voted.psnr_db == []


def test_plurality_wins_without_a_majority():
    texts = ["dog", "cat", "cow", "a cat"]
    voted = majority([outcome([[text]], ("x",)) for text in texts])
    assert voted.answers == [["cat"]]


def test_wrong_majority_is_wrong(marked):
    votes = [outcome([["dog", "yes"], ["car", "yes"]])] * 3 + [outcome(RIGHT)] * 2
    assert marked([majority(votes)]).right.tolist() == [[0.0, 1.0, 1.0, 1.0]]


def test_without_noise_all_three_agree(marked):
    same = [outcome([["dog", "yes"], ["car", "yes"]])] * 10
    average = marked(same).right.mean(axis=0).tolist()
    assert worst_repeat(marked(same)).right[0].tolist() == average
    assert marked([majority(same)]).right[0].tolist() == average
