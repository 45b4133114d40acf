"""The generator of prefixes: what it may write, whom it learns from, and that it learns."""

import json

import pytest
import torch
from typer.testing import CliRunner

from codefend.lab.cli import app
from codefend.lab.errors import LabError
from codefend.lab.prompts import generator as module
from codefend.lab.prompts.search import Scorer
from codefend.models.prompts.generator import PrefixGenerator
from tests.lab.prompts.conftest import item
from tests.lab.train.test_connector import language_model

# peft asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture
def generator(source):
    return module.untuned(source, max_new_tokens=6)


def test_it_samples_prefixes_to_each_question_by_its_seed(generator):
    found = module.sampled(generator, ["what is it?", "where is the cat?"], num=3, seed=1)
    assert [len(texts) <= 3 for texts in found] == [True, True]
    assert found == module.sampled(generator, ["what is it?", "where is the cat?"], num=3, seed=1)


def test_only_adapters_are_tuned_and_a_winner_becomes_likelier(generator):
    tuned = [name for name, p in generator.model.named_parameters() if p.requires_grad]
    assert tuned
    assert all("lora" in name for name in tuned)
    optimizer = torch.optim.AdamW(
        (p for p in generator.model.parameters() if p.requires_grad), lr=1e-2
    )
    before = module.prefix_loss(generator, "what is it?", "look").item()
    module._tune(generator, optimizer, [("what is it?", "look")] * 8)
    assert module.prefix_loss(generator, "what is it?", "look").item() < before


class Writer:
    """Always the same three prefixes."""

    class model:
        @staticmethod
        def eval():
            """Nothing to do."""

    def write(self, questions, *, num_return_sequences=1, **sampling):
        return ["silver", "bronze", "never"][:num_return_sequences] * len(questions)


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


def test_what_was_tuned_is_read_back_as_the_service_reads_it(generator, source, tmp_path):
    optimizer = torch.optim.AdamW(
        (p for p in generator.model.parameters() if p.requires_grad), lr=1e-2
    )
    module._tune(generator, optimizer, [("what is it?", "look")] * 8)
    told = generator.write(["what is it?", "where?"])
    generator.save(tmp_path)
    again = PrefixGenerator.load(tmp_path, source)
    assert (again.name, again.max_new_tokens) == ("generator", 6)
    assert again.write(["what is it?", "where?"]) == told
    assert {p.dtype for p in generator.model.parameters()} == {torch.float32}  # may be tuned on


@pytest.mark.slow
def test_a_whole_run_ends_with_one_table(source, world_file, tiny_weights, tmp_path):
    words = {
        "--out": tmp_path / "out",
        "--world": world_file,
        "--victim": tiny_weights / "mllm",
        "--purifier": tiny_weights / "purifier",
        "--language-model": source,
        "--families": "clean,typographic",
        "--num-train": 2,
        "--num-validation": 2,
        "--num-scenes": 2,
        "--rounds": 2,
        "--num-samples": 2,
        "--max-new-tokens": 6,
    }
    told = [str(word) for pair in words.items() for word in pair]
    found = CliRunner().invoke(app, ["prompt-generator", *told], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = {(r["defence"], r["attack"], r["metric"]): r["value"] for r in report["rows"]}
    for name in ("plain", "template", "generator"):
        assert 0 <= rows[name, "purified typographic", "wrong_word_rate"] <= 1
    assert rows["generator", "none", "added_ms@1"] > 0
    assert rows["generator", "none", "memory_mib"] > 0
    assert "| round 2 |" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "adapters" / "generator.json").is_file()


def test_without_a_model_it_says_so(tmp_path):
    with pytest.raises(LabError, match="no language model"):
        module.untuned(str(tmp_path / "nowhere"), max_new_tokens=6)
