"""Boards and pages: what is written is absent from the image, legible, and within its area."""

import numpy as np
import pytest
import torch

import codefend.lab.attacks.typographic
from codefend.lab.attacks.typographic import (
    OBJECT_WORDS,
    TextPage,
    TypographicAttack,
    absent_words,
    board,
    misleading_words,
    names_any,
)
from codefend.lab.victims.dialogue import Dialogue

GRAY = torch.full((2, 3, 128, 128), 0.5)


def mean(images):
    return images.flatten(1).mean(dim=1)


def test_absent_words_name_nothing_that_is_there():
    truths = [
        Dialogue("describe the image.", "a cat to the left of two dogs"),
        Dialogue("where is the pizza?", "top left"),
    ]
    absent = absent_words(truths)
    assert len(absent) == len(OBJECT_WORDS) - 3
    assert not {"cat", "dog", "pizza"} & set(absent)


def test_what_a_question_asks_for_in_vain_misleads_most():
    truths = [Dialogue("what is it?", "cat"), Dialogue("is there a bus?", "no")]
    assert misleading_words(truths) == ("bus",)
    assert misleading_words(truths[:1]) == absent_words(truths[:1])
    assert "bus" in absent_words(truths)
    with pytest.raises(ValueError, match="no known object"):
        absent_words([Dialogue("what is there?", " ".join(OBJECT_WORDS))])


def test_board_is_as_large_as_fits_and_has_ink_and_paper():
    small, large = (board(["bus"], 128, 128, area=area) for area in (400, 1600))
    assert small.shape[0] * small.shape[1] <= 400
    assert 0.7 * 1600 < large.shape[0] * large.shape[1] <= 1600
    assert large.min() < 60
    assert large.max() == 250
    with pytest.raises(ValueError, match="cannot be written"):
        board(["a long line of words"], 16, 16)


def test_word_is_one_of_those_given_and_nothing_else_changes(monkeypatch):
    written = []

    def recorded(lines, *args, **kwargs):
        written.append(lines[0])
        return board(lines, *args, **kwargs)

    monkeypatch.setattr(codefend.lab.attacks.typographic, "board", recorded)
    attack = TypographicAttack(words=[["bus", "ship"], ["owl"]], restarts=12)
    marked = attack(GRAY, mean, generator=torch.Generator().manual_seed(0))
    assert set(written[0::2]) == {"bus", "ship"}
    assert set(written[1::2]) == {"owl"}
    changed = (marked != GRAY).any(dim=1).float().mean(dim=(1, 2))
    assert (changed > 0.03).all()
    assert (changed <= 0.1).all()


def test_of_several_tries_the_best_is_kept():
    """The objective wants the board at the top: more tries come nearer."""
    weights = torch.linspace(1, 0, 128)[:, None]

    def objective(images):
        return ((images - GRAY).abs() * weights).flatten(1).mean(dim=1)

    def tried(restarts):
        attack = TypographicAttack(words=[["owl"], ["owl"]], restarts=restarts)
        return objective(attack(GRAY, objective, generator=torch.Generator().manual_seed(0)))

    assert (tried(8) > tried(1)).all()


def test_page_lists_absent_things_on_plain_paper(monkeypatch):
    pages = []

    def recorded(lines, *args, **kwargs):
        pages.append(lines)
        return board(lines, *args, **kwargs)

    monkeypatch.setattr(codefend.lab.attacks.typographic, "board", recorded)
    page = TextPage(words=[["bus", "ship", "owl"], ["bus"]])(GRAY, mean)
    assert sorted(line[3:] for line in pages[0][1:]) == ["bus", "owl", "ship"]
    assert pages[1] == ["this image shows:", "1. bus"]
    levels = (page * 255).round()
    assert np.unique(levels[:, :, 0].numpy()).tolist() == [235.0, 248.0, 250.0]
    assert (levels.amin(dim=(1, 2, 3)) < 60).all()


@pytest.mark.parametrize("attack", [TypographicAttack, TextPage])
def test_words_are_for_each_image(attack):
    with pytest.raises(ValueError, match="words for 1 images"):
        attack(words=[["bus"]])(GRAY, mean)
    with pytest.raises(ValueError, match="at least one word"):
        attack(words=[["bus"], []])


def test_only_whole_words_count_as_named():
    assert names_any("A dog, at the top.", ["cat", "dog"])
    assert not names_any("a dogfish", ["dog"])
