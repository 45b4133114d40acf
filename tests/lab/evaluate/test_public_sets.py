"""`experiments/robustvlm.toml` at tiny size, and figures of captions or answers alone."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from codefend.lab.evaluate.checks import check_noise
from codefend.lab.evaluate.command import Evaluate
from codefend.lab.evaluate.data import public_material, truths
from codefend.lab.evaluate.outcomes import Responses
from codefend.lab.evaluate.scores import (
    measure_alone,
    measure_attacked,
    measure_beside_clean,
    score,
)
from codefend.lab.evaluate.tables import kept_table
from codefend.lab.experiments.report import Row
from codefend.lab.experiments.settings import add_experiments
from codefend.lab.folders.public import open_public
from codefend.models.purifier.pipeline import PurificationPipeline
from tests.public_sets import WRITERS

FILE = Path(__file__).parents[3] / "experiments" / "robustvlm.toml"
METRICS = {"coco": "cider", "vqav2": "accuracy"}


def first_scenes(name, folder):
    found = open_public(f"{name}:{WRITERS[name](folder / name)}")
    return public_material(found, "test", 32, num=3, num_validation=1).tested


def scored(scenes, captions=(), answers=()):
    said = Responses(captions=list(captions), answers=list(answers), psnr_db=[], ssim=[])
    return score([said], scenes, [scene.captions for scene in scenes])


def figures(measures):
    return {(task, metric): figure.value for task, metric, figure in measures}


def test_scenes_of_questions_have_no_figures_of_captions(tmp_path):
    scenes = first_scenes("vqav2", tmp_path)
    right = scored(scenes, answers=[[q.answer for q in s.questions] for s in scenes])
    rare = scored(scenes, answers=[["thing"]] * 3)  # what one person of ten said
    assert (right.num_scenes, right.cider.shape) == (3, (1, 0))
    found = figures(measure_alone(rare))
    assert found["vqa", "accuracy"] == pytest.approx(0.3)
    assert not any(task == "caption" for task, _ in found)
    assert figures(measure_beside_clean(rare, right))["vqa", "accuracy_of_clean"] == pytest.approx(
        0.3
    )
    # An answer that is as right as before is not lost, however right it was.
    assert figures(measure_attacked(rare, rare))["vqa", "untargeted_success"] == 0
    assert figures(measure_attacked(rare, right))["vqa", "untargeted_success"] == pytest.approx(0.7)
    assert [d.prompt for d in truths(scenes[0])] == [scenes[0].questions[0].question]


def test_scenes_of_captions_have_no_figures_of_answers(tmp_path):
    scenes = first_scenes("coco", tmp_path)
    right = scored(scenes, [scene.captions[0] for scene in scenes], [[]] * 3)
    wrong = scored(scenes, ["two men in a boat"] * 3, [[]] * 3)
    found = figures(measure_beside_clean(wrong, right))
    assert found == {("caption", "cider_of_clean"): pytest.approx(0, abs=0.05)}
    (dialogue,) = truths(scenes[0])
    assert dialogue.prompt == scenes[0].request
    assert dialogue.answer == scenes[0].captions[0]


def row(metric, value, **changes):
    fields = {
        **{"tier": "t0", "attack": "uniform_noise", "family": "", "held_out": False},
        **{"targeted": False, "epsilon": 8 / 255, "steps": 0, "restarts": 1, "eot": 0},
        **{"gradient": "", "defence": "codefend", "victim": "v", "task": "caption"},
        **{"low": value, "high": value, "n": 9, "seeds": 1},
    }
    return Row(**{**fields, "metric": metric, "value": value, **changes})


def test_noise_is_checked_on_captions_where_nothing_was_answered():
    assert check_noise([row("cider_lost", 0.01)], "codefend").passed
    assert not check_noise([row("cider_lost", 0.3)], "codefend").passed
    undefended = [row("cider_of_clean", 0.9, defence="none"), row("cider", 1.0, defence="none")]
    assert not check_noise(undefended, "none").passed
    answered = row("accuracy_lost", 0.5, task="vqa")
    assert not check_noise([row("cider_lost", 0.01), answered], "codefend").passed


def test_the_least_that_any_attack_leaves_is_shown():
    rows = [
        row("cider_of_clean", 1.0, tier="clean", attack="none", epsilon=0.0),
        row("cider_of_clean", 0.8, attack="apgd"),
        row("cider_of_clean", 0.7, attack="apgd-margin"),
        row("cider_of_clean", 0.1),  # noise is no attack
        row("cider_of_clean", 0.4, tier="t2", attack="apgd"),
    ]
    shown = kept_table(rows)
    assert "clean CIDEr" in shown
    cells = [line.split(" [")[0] for line in shown.splitlines()[-1].split("|")[2:-1]]
    assert [cell.strip() for cell in cells] == ["1.000", "0.700", "0.400"]
    assert kept_table([]) == ""


def arguments(name, victim, folder):
    victim.model.save_pretrained(folder / "victim")
    victim.processor.save_pretrained(folder / "victim")
    for network in ("purifier", "base"):
        PurificationPipeline.tiny().save_pretrained(folder / network)
    options = {
        "data": f"{name}:{WRITERS[name](folder / name)}",
        "out": folder / "out",
        "victim": folder / "victim",
        "purifier": folder / "purifier",
        "base": folder / "base",
        "surrogate": folder / "base",
        "size-px": 64,
        "num-scenes": 3,
        "num-scenes-other": 2,
        "num-validation": 1,
        "steps": 1,
        "seeds": 1,
        "device": "cpu",
        "tier-steps": 1,
        "tier-scenes": "t2=1",
        "eot": 1,
        "gradients": "exact",
        "curve-steps": 1,
        "curve-scenes": 1,
        "tier-goals": "language",
        "adaptive.num-focused": 1,
        "adaptive.num-focused-still": 0,
        "defences": "none,codefend",
    }
    return [str(word) for flag, value in options.items() for word in (f"--{flag}", value)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tiers"), [("coco", "t0,t2"), ("vqav2", "t0")])
def test_the_file_runs_at_tiny_size(name, tiers, victim, tmp_path):
    app = typer.Typer()
    add_experiments(app, [Evaluate])
    words = [*arguments(name, victim, tmp_path), "--tier", tiers]
    result = CliRunner().invoke(app, ["run", str(FILE), *words])
    assert isinstance(result.exception, SystemExit | None), result.exception  # checks may fail
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = [found for found in document["rows"] if found["metric"] == METRICS[name]]
    where = {(found["tier"], round(found["epsilon"] * 255)) for found in rows}
    assert where >= {("clean", 0), ("t0", 2), ("t0", 4)}
    assert (("t2", 4) in where) == ("t2" in tiers)
    assert {found["defence"] for found in rows} >= {"none", "codefend"}
    assert not any(
        found["task"] == ("vqa" if name == "coco" else "caption") for found in document["rows"]
    )
    assert document["meta"]["settings"]["oblivious"]["epsilons"] == [2, 4]
    assert name in (tmp_path / "out" / "report.md").read_text()
