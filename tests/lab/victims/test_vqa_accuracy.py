"""VQA accuracy by hand, and answers as the challenge's own code normalises them."""

import pytest

from codefend.lab.victims.vqa_accuracy import normalise_vqa, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat.", "cat"),
        ("two  dogs\n", "2 dogs"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("Couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("yes/no", "yes no"),
        ("yes / no", "yes no"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("2.5", "2.5"),
        ("U.S.", "us"),
        ("x-ray", "x ray"),
        ("an apple on a plate", "apple on plate"),
    ],
)
def test_answers_are_normalised_as_officially(text, normal):
    assert normalise_vqa(text) == normal


@pytest.mark.parametrize(
    ("num_agreeing", "accuracy"),
    # Out of each person's nine others: n agreeing leave n - 1 in n subsets and n in the rest.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_three_others_who_agree_make_an_answer_right(num_agreeing, accuracy):
    answers = ["a cat"] * num_agreeing + ["dog"] * (10 - num_agreeing)
    assert vqa_accuracy("Cat", answers) == pytest.approx(accuracy)


def test_somebody_must_have_answered():
    with pytest.raises(ValueError, match="answers of people"):
        vqa_accuracy("cat", [])
