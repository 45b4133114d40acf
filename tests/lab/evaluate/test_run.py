"""A whole little evaluation: its report's form, and that resuming does nothing again."""

import dataclasses
import json

import numpy as np
import pytest

import codefend.lab.evaluate.attacked
import codefend.lab.evaluate.outcomes
from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.errors import LabError
from codefend.lab.evaluate.attacked import AttackedImages
from codefend.lab.evaluate.defences import Roster, served_prompt
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.run import Evaluation, Plan
from codefend.lab.evaluate.tier_tables import oblivious_table
from codefend.lab.evaluate.tune import SettingChooser
from codefend.lab.experiments.report import provenance, write_report
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline

PLAN = Plan(steps=2, other_epsilons=(16,), num_scenes_other=2, seeds=2)
KEYS = [
    *("tier", "attack", "family", "held_out", "targeted", "epsilon", "steps", "eot", "gradient"),
    *("restarts", "defence", "victim", "task", "metric", "value", "low", "high", "n", "seeds"),
]


@pytest.fixture(scope="module")
def conditions():
    ours = purifying("purifier", PurificationPipeline.tiny(), "0" * 64)
    return [
        Condition("none", NO_DEFENCE),
        Condition("codefend", ours, served_prompt),
        Condition("jpeg", jpeg(50)),
    ]


@pytest.fixture(scope="module")
def finished(victim, scenes, conditions, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return out, Evaluation(victim, scenes, conditions, PLAN, out).rows()


def test_resume_does_nothing_again(victim, scenes, conditions, finished, monkeypatch):
    out, rows = finished

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(codefend.lab.evaluate.attacked, "attack_scenes", forbidden)
    monkeypatch.setattr(codefend.lab.evaluate.outcomes, "generate", forbidden)
    monkeypatch.setattr(codefend.lab.evaluate.outcomes, "defend", forbidden)
    assert Evaluation(victim, scenes, conditions, PLAN, out).rows() == rows


def test_interrupted_attack_repeats_only_what_is_missing(victim, scenes, tmp_path, monkeypatch):
    config = AttackConfig(name="pgd", epsilon=8 / 255, steps=1)
    make = AttackedImages(victim, tmp_path, batch_size=2)
    first = make(config, scenes)
    folder = sorted(tmp_path.glob("*/*"))[0]
    (folder / "000.png").unlink()
    calls = []
    real = codefend.lab.evaluate.attacked.attack_scenes
    monkeypatch.setattr(
        codefend.lab.evaluate.attacked,
        "attack_scenes",
        lambda *args: calls.append(1) or real(*args),
    )
    for before, after in zip(first, make(config, scenes), strict=True):
        np.testing.assert_array_equal(before, after)
    assert len(calls) == 1


def test_other_victim_or_target_is_another_attack(victim, scenes, tmp_path):
    config = AttackConfig(name="uniform_noise", epsilon=8 / 255, steps=0)
    AttackedImages(victim, tmp_path)(config, scenes)
    AttackedImages(dataclasses.replace(victim, sha256="other"), tmp_path)(config, scenes)
    assert len(list(tmp_path.glob("*/*"))) == 2


def test_rows_cover_the_plan(finished):
    _, rows = finished
    found = {(r.tier, r.attack, r.targeted, round(r.epsilon * 255), r.defence) for r in rows}
    for defence in ("none", "codefend", "jpeg"):
        assert ("clean", "none", False, 0, defence) in found
        for epsilon in (8, 16):
            assert ("t0", "apgd", False, epsilon, defence) in found
        assert ("t0", "apgd-margin", False, 8, defence) in found
        assert ("t0", "worst-of-all", False, 8, defence) in found
        assert ("t0", "apgd", True, 8, defence) in found
    assert ("t0", "uniform_noise", False, 8, "none") in found
    metrics = {(r.defence, r.metric) for r in rows}
    assert ("codefend", "accuracy_lead:jpeg") in metrics
    assert ("codefend", "psnr_db") in metrics
    assert ("none", "psnr_db") not in metrics
    assert all(r.low <= r.value <= r.high for r in rows)


def test_worst_of_all_is_below_every_attack(finished):
    _, rows = finished
    for metric in ("accuracy", "cider"):
        values = {
            r.attack: r.value
            for r in rows
            if (r.defence, r.metric, round(r.epsilon * 255), r.targeted)
            == ("jpeg", metric, 8, False)
        }
        assert set(values) == {"apgd", "apgd-margin", "worst-of-all"}
        assert values["worst-of-all"] <= min(values.values())


def test_report_has_the_agreed_form(finished, tmp_path):
    _, rows = finished
    meta = provenance(seed=0, weights={"tiny": "0" * 64}, device="cpu")
    markdown = write_report(tmp_path, meta, rows, [oblivious_table(rows), "Notes."])
    document = json.loads((tmp_path / "report.json").read_text())
    assert set(document["meta"]) == {"commit", "device", "seed", "date", "weights"}
    assert all(list(row) == KEYS for row in document["rows"])
    assert (tmp_path / "report.md").read_text() == markdown
    assert "| codefend |" in markdown
    assert "NaN" not in (tmp_path / "report.json").read_text()


def test_clean_tier_attacks_nothing(victim, scenes, tmp_path):
    plan = dataclasses.replace(PLAN, tier=Tier.CLEAN)
    rows = Evaluation(victim, scenes, [Condition("none", NO_DEFENCE)], plan, tmp_path).rows()
    assert {row.tier for row in rows} == {"clean"}
    assert not (tmp_path / "attacked").exists()


def test_first_condition_is_undefended(victim, scenes, conditions, tmp_path):
    with pytest.raises(ValueError, match="undefended"):
        Evaluation(victim, scenes, conditions[1:], PLAN, tmp_path)


def test_settings_are_chosen_on_validation(victim, scenes, tmp_path):
    chooser = SettingChooser(victim, scenes, PLAN.main_attack, tmp_path)
    best, trials = chooser.choose([jpeg(20), jpeg(90), bit_depth(3)])
    assert set(best) == {"jpeg", "bit_depth"}
    assert len(trials) == 3
    jpegs = [trial for trial in trials if trial.defence.name == "jpeg"]
    assert max(t.attacked for t in jpegs) == next(
        t.attacked for t in jpegs if t.defence is best["jpeg"]
    )


def test_roster_builds_conditions_in_order(victim, scenes, tmp_path):
    pipeline = PurificationPipeline.tiny()
    pipeline.save_pretrained(tmp_path / "purifier")
    chooser = SettingChooser(victim, scenes[:2], PLAN.main_attack, tmp_path)
    roster = Roster(tmp_path / "purifier", tmp_path / "missing")
    built = roster.conditions(["prompt", "bit_depth", "codefend"], chooser)
    assert [c.name for c in built] == ["none", "codefend", "prompt", "bit_depth"]
    assert built[1].defence.is_random
    assert len(roster.weights["purifier"]) == 64
    assert built[2].prompt("caption", None) == served_prompt("caption", None)
    with pytest.raises(LabError, match="unknown defences"):
        roster.conditions(["magic"], chooser)
    with pytest.raises(LabError, match="holds no purifier"):
        roster.conditions(["diffpure"], chooser)
    with pytest.raises(LabError, match="latent"):
        Roster(tmp_path, tmp_path / "purifier").conditions(["autoencoder"], chooser)


def test_roster_of_a_latent_purifier_has_its_bare_round_trip(victim, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("codefend.lab.evaluate.defences.diffpure_grid", lambda *_: [])
    LatentPurificationPipeline.tiny().save_pretrained(tmp_path / "base")
    chooser = SettingChooser(victim, scenes[:2], PLAN.main_attack, tmp_path)
    roster = Roster(tmp_path / "base", tmp_path / "base")
    built = roster.conditions(["autoencoder", "purifier"], chooser)
    assert [c.name for c in built] == ["none", "purifier", "autoencoder"]
    assert [c.defence.is_random for c in built] == [False, True, False]
    assert roster.weights["base"] == roster.weights["purifier"]
