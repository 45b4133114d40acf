"""The one command that makes the shipped purifier, at tiny size."""

import json

import pytest

import codefend.lab.train.sources
from codefend.lab.errors import LabError
from codefend.lab.train.command import recipe
from codefend.lab.train.pairs import load_pairs
from codefend.lab.train.settings import RecipeRun
from codefend.lab.train.sources import PairOrder
from codefend.lab.victims.classifier import HELD_OUT, TRAINING_CLASSIFIER
from codefend.models.manifest import read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(world_file, tiny_weights, tmp_path):
    """The command's options for two tiny models, and two steps."""
    (tmp_path / "weights").mkdir()
    return {
        "source": [f"{tiny_weights / 'mllm'}=6,4", f"{TRAINING_CLASSIFIER}=2,2"],
        "world": world_file,
        "runs": tmp_path / "runs",
        "weights": tmp_path / "weights",
        "base": tiny_weights / "purifier",
        "making": {"steps": 1, "batch_size": 2},
        "loop": {"num_steps": 2, "num_workers": 0},
        "shares": {"adversarial_share": 0.5},
        "options": {"adversarial_steps": 1},
        "version": "9",
    }


@pytest.mark.slow
def test_several_processes_make_the_pairs_and_an_interrupted_one_resumes(tiny, tmp_path):
    recipe(RecipeRun.model_validate({**tiny, "processes": 2}))
    folders = [PairOrder.parse(text).folder(tmp_path / "runs") for text in tiny["source"]]
    assert [len(load_pairs(folder).clean) for folder in folders] == [6, 2]
    index = json.loads((tmp_path / "weights" / "purifier" / "model_index.json").read_text())
    assert (index["noise_level"], index["version"]) == (0.08, "9")
    assert read_manifest(tmp_path / "weights")[0].name == "purifier"
    first, *others = sorted(path for folder in folders for path in folder.iterdir())
    first.unlink()
    before = {path: path.stat().st_mtime_ns for path in others}
    recipe(RecipeRun.model_validate({**tiny, "processes": 1}))
    assert first.exists()
    assert before == {path: path.stat().st_mtime_ns for path in others}


@pytest.mark.slow
def test_what_a_process_finds_wrong_is_said(tiny):
    tiny["source"][1] = f"{HELD_OUT}=2,2"
    with pytest.raises(LabError, match="learn from efficientnet-lite0 alone"):
        recipe(RecipeRun.model_validate({**tiny, "processes": 2}))


@pytest.mark.parametrize("source", ["mllm", "mllm=4", "mllm=0,4", "mllm=4,x", "=4,4"])
def test_a_source_that_means_nothing_is_refused(tiny, source):
    tiny["source"] = [source]
    with pytest.raises(LabError, match="VICTIM=PAIRS,BATCH"):
        recipe(RecipeRun.model_validate(tiny))


def test_a_missing_base_is_said_before_any_pair_is_made(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(codefend.lab.train.sources, "make_pairs_of", None)
    tiny["base"] = tmp_path / "nowhere"
    with pytest.raises(LabError, match="train base"):
        recipe(RecipeRun.model_validate(tiny))
