"""The generator of prefixes: what it may write, whom it learns from, and that it learns."""

import pytest
import torch

from codefend.lab.errors import LabError
from codefend.lab.prompts import generator as module
from codefend.lab.prompts.generator import PrefixGenerator
from codefend.lab.prompts.search import Scorer
from tests.lab.prompts.conftest import item
from tests.lab.train.test_connector import language_model

# peft asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture
def generator(source):
    return PrefixGenerator.load(source, max_tokens=6)


def test_it_writes_so_many_lines_to_each_question(generator):
    found = generator.write(["what is it?", "where is the cat?"], num=3, seed=1)
    assert [len(texts) for texts in found] == [3, 3]
    assert found == generator.write(["what is it?", "where is the cat?"], num=3, seed=1)
    assert found != generator.write(["what is it?", "where is the cat?"], num=3, seed=2)
    assert all(text.isprintable() and "{" not in text for texts in found for text in texts)
    assert [len(texts) for texts in generator.write(["what is it?"], num=3, seed=None)] == [1]


def test_a_prefix_is_one_line_without_a_place_for_a_question():
    assert module._one_line(" look\n at {question}\x00 it ") == "look at question it"


def test_only_adapters_are_tuned_and_a_winner_becomes_likelier(generator):
    tuned = [name for name, p in generator.model.named_parameters() if p.requires_grad]
    assert tuned
    assert all("lora" in name for name in tuned)
    optimizer = torch.optim.AdamW(
        (p for p in generator.model.parameters() if p.requires_grad), lr=1e-2
    )
    before = generator.loss("what is it?", "look").item()
    module._tune(generator, optimizer, [("what is it?", "look")] * 8)
    assert generator.loss("what is it?", "look").item() < before


class Writer:
    """Always the same three prefixes."""

    def write(self, questions, *, num, seed):
        return [["silver", "bronze", "never"][:num] for _ in questions]


def test_winners_are_right_more_often_than_the_question_alone(log, items, upstream):
    found = module._winners(Writer(), Scorer(log), items, 3, 0)
    assert found == [("describe the image.", "silver")]
    assert all(prompt.endswith("describe the image.") for prompt in upstream.asked)


def test_the_likeliest_prefix_stands_before_the_question_as_it_is(log, upstream):
    asked = [item("clean", 0, "is {question} a cat?")]
    (prefix,) = module._likeliest(Writer(), asked)
    module._scores(Scorer(log), asked, [prefix])
    assert upstream.asked == ["silver is {question} a cat?"]


def test_an_oracle_earns_nothing(log, upstream):
    asked = [item("clean", 0)]
    assert module._scores(Scorer(log), asked, ["ignore the sign."]) == [0.0]
    assert upstream.asked == []


def test_what_was_tuned_is_read_back_and_leaves_the_question_as_it_is(generator, source, tmp_path):
    optimizer = torch.optim.AdamW(
        (p for p in generator.model.parameters() if p.requires_grad), lr=5e-2
    )
    module._tune(generator, optimizer, [("what is it?", "look")] * 30)
    generator.model.save_pretrained(tmp_path)
    again = PrefixGenerator.tuned(source, tmp_path, max_tokens=6)
    questions = ["what is it?", "is {question} there?"]
    expected = generator.write(questions, num=1, seed=None)
    assert again.write(questions, num=1, seed=None) == expected
    fresh = PrefixGenerator.load(source, max_tokens=6).write(questions, num=1, seed=None)
    assert expected != fresh
    for question in questions:
        assert again.prompt(question).endswith(question)
    with pytest.raises(LabError, match="holds no adapters"):
        PrefixGenerator.tuned(source, tmp_path / "nowhere")


def test_without_a_model_it_says_so(tmp_path):
    with pytest.raises(LabError, match="no language model"):
        PrefixGenerator.load(str(tmp_path / "nowhere"))
