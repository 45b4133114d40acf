"""Seeds, rivals and training are three sets of words that share no three in a row."""

import itertools

import pytest

from codefend.lab.prompts.proposals import COMPONENT, Grammar
from codefend.lab.prompts.texts import (
    ORACLE,
    PLAIN,
    RIVALS,
    SEEDS,
    _runs,
    is_oracle,
    parts,
    read_texts,
)
from codefend.lab.world.language import PREAMBLES, instructions


def runs_of(file):
    return [run for text in read_texts(file) for part in parts(text) for run in _runs(part)]


def test_there_are_twenty_rivals_and_every_text_is_there_once():
    texts = [*read_texts(SEEDS), *read_texts(RIVALS)]
    assert len(read_texts(RIVALS)) == 20
    assert len(read_texts(SEEDS)) >= 8
    assert len(set(texts)) == len(texts)


def test_seeds_and_rivals_are_strangers_to_each_other_and_to_training():
    assert [text for file in (SEEDS, RIVALS) for text in read_texts(file) if is_oracle(text)] == []
    assert set(runs_of(SEEDS)).isdisjoint(runs_of(RIVALS))


@pytest.mark.parametrize("taught", [t for t in instructions() if len(t.split()) > 2])
def test_whatever_training_teaches_is_an_oracle_on_either_side(taught):
    for text in (f"{{question}} {taught}", f"{taught.upper()} {{question}}"):
        assert is_oracle(text)
    assert is_oracle(f"now, {taught} {{question}} thanks")


def test_questions_of_training_are_taught_too():
    assert is_oracle("{question} what does the sign say?")
    assert is_oracle(ORACLE)
    assert not is_oracle(PLAIN)
    assert not is_oracle("{question} ignore a sign.")
    assert not is_oracle("ignore the {question} sign.")  # nobody reads the three in a row


def test_a_text_without_its_question_is_refused(tmp_path):
    (tmp_path / "bad.txt").write_text("no place for it\n")
    with pytest.raises(ValueError, match="exactly once"):
        read_texts(tmp_path / "bad.txt")


def test_preambles_are_among_the_instructions():
    assert set(PREAMBLES) <= set(instructions())


def proposals(seed, num):
    grammar = Grammar(read_texts(SEEDS), seed=seed, max_words=9)
    parent, found = PLAIN, []
    for _ in range(num):
        parent = grammar({COMPONENT: parent}, {}, [COMPONENT])[COMPONENT]
        found.append(parent)
    return found


def test_the_grammar_follows_from_its_seed_and_repeats_nothing():
    found = proposals(3, 150)
    assert found == proposals(3, 150) != proposals(4, 150)
    assert len(set(found)) == len(found)


def test_every_proposal_is_a_short_template_and_no_oracle():
    seeds = read_texts(SEEDS)
    for text in proposals(5, 300)[len(seeds) :]:
        before, after = parts(text)
        assert text.count("{question}") == 1
        assert len([*before.split(), *after.split()]) <= 9
        assert not is_oracle(text)


def test_words_come_from_the_seeds_alone():
    known = set(itertools.chain.from_iterable(text.split() for text in read_texts(SEEDS)))
    assert {word for text in proposals(6, 200) for word in text.split()} <= known
