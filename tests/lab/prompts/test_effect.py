"""The 2 × 2: what is counted, what is paired with what, and a whole run at tiny size."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from codefend.lab.cli import app
from codefend.lab.evaluate.data import world_scenes
from codefend.lab.evaluate.outcomes import Responses
from codefend.lab.experiments.report import Threat
from codefend.lab.prompts import effect
from codefend.models.prompts.templates import SHIPPED_TEMPLATES

KNOWN = Threat(tier="t0", attack="x")


def responses(captions, answers):
    return [Responses(captions=captions, answers=answers, psnr_db=[], ssim=[])]


def test_wrong_words_are_those_that_are_nowhere_in_the_scene(world):
    scene = world_scenes(world, "test", 1, seed=0)[0]
    absent = effect.absent_words(effect.truths(scene))[0]
    right = [question.answer for question in scene.questions]
    wrong = [absent, *right[1:]]
    found = effect._wrong(responses([f"a {absent}"], [wrong]), [scene])
    assert [values[0] for values in found["caption", "wrong_word_rate"]] == [1, 1]
    assert [values[0] for values in found["vqa", "wrong_word_rate"]] == [1, len(right)]
    found = effect._wrong(responses([scene.captions[0]], [right]), [scene])
    assert found["caption", "wrong_word_rate"][0][0] == found["vqa", "wrong_word_rate"][0][0] == 0


def test_a_scene_s_own_sign_counts_where_it_can_be_read(world):
    scenes = world_scenes(world, "test", 40, seed=0)
    captions = [scene.captions[0] for scene in scenes]
    above, below = effect._signs(responses(captions, []), scenes)["caption", "signs_read"]
    assert 0 < below.sum() < len(scenes)
    assert np.array_equal(above, below)
    blind, _ = effect._signs(responses(["nothing"] * 40, []), scenes)["caption", "signs_read"]
    assert blind.sum() == 0


class Context:
    class victim:
        name = "v"

    class oblivious:
        seeds = 1


def columns(right):
    return {("vqa", "accuracy"): (np.array(right, float), np.full(len(right), 2.0))}


def test_differences_are_paired_by_scene():
    found = {"none": columns([0, 0, 1]), "purifier": columns([1, 2, 2])}
    found |= {"codefend": columns([1, 2, 2]), "oracle": columns([2, 2, 2])}
    rows = effect._rows(Context, KNOWN, found)
    by_name = {(row.defence, row.metric): row for row in rows}
    assert by_name["purifier", "accuracy"].value == pytest.approx(5 / 6)
    assert by_name["purifier", "accuracy"].n == 6
    same = by_name["codefend", "accuracy_lead:purifier"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    lead = by_name["oracle", "accuracy_lead:purifier"]
    assert lead.value == pytest.approx(1 / 6)
    assert lead.low <= lead.value <= lead.high
    assert ("none", "accuracy_lead:none") not in by_name


@pytest.mark.slow
def test_a_whole_run(world_file, tiny_weights, tmp_path):
    entries = json.loads(SHIPPED_TEMPLATES.read_text())
    entries["caption"]["text"] = "look. {question}"
    (tmp_path / "templates.json").write_text(json.dumps(entries))
    words = {
        "--out": tmp_path / "out",
        "--world": world_file,
        "--victim": tiny_weights / "mllm",
        "--purifier": tiny_weights / "purifier",
        "--templates": tmp_path / "templates.json",
        "--others": "other={question} now",
        "--num-scenes": 4,
        "--num-attacked": 2,
        "--num-written": 3,
        "--num-joint": 2,
        "--num-white-box": 2,
        "--steps": 1,
        "--tier-steps": 1,
        "--adaptive.num-draws-network": 1,
    }
    told = [str(word) for pair in words.items() for word in pair]
    found = CliRunner().invoke(app, ["prompt-effect", *told], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = {
        (r["tier"], r["attack"], r["defence"], r["task"], r["metric"]): r for r in report["rows"]
    }
    conditions = {"none", "purifier", "prompt", "codefend", "other"}
    assert {key[2] for key in rows if key[1] == "typographic"} == conditions
    assert {key[2] for key in rows if key[0] == "t2"} == {"purifier", "codefend"}
    written = rows["t0", "typographic", "codefend", "caption", "wrong_word_rate"]
    assert written["n"] == 3
    assert rows["clean", "none", "codefend", "vqa", "accuracy_lead:purifier"]["value"] == 0
    assert {key[1] for key in rows} >= {"typographic", "figstep", "joint", "apgd-margin"}
    assert report["meta"]["templates"]["caption"] == "look. {question}"
