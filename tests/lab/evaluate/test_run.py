"""A whole little evaluation: its report's form, and that resuming does nothing again."""

import dataclasses
import json

import numpy as np
import pytest

import codefend.lab.evaluate.outcomes
import codefend.lab.evaluate.uploads
import codefend.lab.experiments.responder
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.errors import LabError
from codefend.lab.evaluate.conditions import DefenceFactory, SettingChooser, distinct, served_prompt
from codefend.lab.evaluate.context import EvalContext, ObliviousSettings, Surrogate, TierSettings
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.tables import oblivious_table
from codefend.lab.evaluate.tiers import oblivious_rows
from codefend.lab.evaluate.uploads import Attacker
from codefend.lab.experiments.report import provenance, write_report
from codefend.lab.experiments.store import Store
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline

SETTINGS = ObliviousSettings(steps=2, epsilons=(16,), num_scenes_other=2, seeds=2)
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
def build(victim, scenes, conditions):
    """An evaluation in a folder."""

    def make(out, **changes):
        fields = {
            "victim": victim,
            "attacker": victim,
            "scenes": scenes,
            "conditions": conditions,
            "oblivious": SETTINGS,
            "tiers": TierSettings(),
            "surrogate": Surrogate("none", NO_DEFENCE.apply),
            "out": out,
        }
        return EvalContext(**{**fields, **changes})

    return make


@pytest.fixture(scope="module")
def finished(build, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return out, oblivious_rows(build(out))


@pytest.mark.slow
def test_resume_does_nothing_again(build, finished, monkeypatch):
    out, rows = finished

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_uploads", forbidden)
    monkeypatch.setattr(codefend.lab.evaluate.outcomes, "generate", forbidden)
    monkeypatch.setattr(codefend.lab.experiments.responder, "defend", forbidden)
    assert oblivious_rows(build(out)) == rows


def test_interrupted_attack_repeats_only_what_is_missing(victim, scenes, tmp_path, monkeypatch):
    config = AttackConfig(name="pgd", epsilon=8 / 255, steps=1)
    make = Attacker(victim, Store(tmp_path), batch_size=2).oblivious
    first = make(config, scenes)
    folder = sorted(tmp_path.glob("*/*"))[0]
    (folder / "000.png").unlink()
    calls = []
    real = codefend.lab.evaluate.uploads.attack_uploads
    monkeypatch.setattr(
        codefend.lab.evaluate.uploads,
        "attack_uploads",
        lambda *args, **options: calls.append(1) or real(*args, **options),
    )
    for before, after in zip(first, make(config, scenes), strict=True):
        np.testing.assert_array_equal(before, after)
    assert len(calls) == 1


def test_other_victim_or_target_is_another_attack(victim, scenes, tmp_path):
    config = AttackConfig(name="uniform_noise", epsilon=8 / 255, steps=0)
    for each in (victim, dataclasses.replace(victim, sha256="other")):
        Attacker(each, Store(tmp_path)).oblivious(config, scenes)
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


@pytest.mark.slow
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


def test_clean_tier_attacks_nothing(build, tmp_path):
    alone = build(tmp_path, conditions=[Condition("none", NO_DEFENCE)])
    rows = oblivious_rows(alone, is_attacked=False)
    assert {row.tier for row in rows} == {"clean"}
    assert not (tmp_path / "attacked").exists()


def test_first_condition_is_undefended(build, conditions, tmp_path):
    with pytest.raises(ValueError, match="undefended"):
        build(tmp_path, conditions=conditions[1:])


def test_settings_are_chosen_on_validation(victim, scenes, tmp_path):
    chooser = SettingChooser(victim, scenes, SETTINGS.main_attack, tmp_path)
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
    chooser = SettingChooser(victim, scenes[:2], SETTINGS.main_attack, tmp_path)
    factory = DefenceFactory(tmp_path / "purifier", tmp_path / "missing")
    built = factory.conditions(["prompt", "bit_depth", "codefend", "strong"], chooser)
    assert [c.name for c in built] == ["none", "codefend", "strong", "prompt", "bit_depth"]
    assert built[1].defence.is_random
    strong = built.pop(2).defence
    assert strong.name == "purifier"
    assert strong.setting.startswith("noise_level=0.065 num_steps=2 ")
    assert len(factory.weights["purifier"]) == 64
    assert built[2].prompt("caption", None) == served_prompt("caption", None)
    with pytest.raises(LabError, match="unknown defences"):
        factory.conditions(["magic"], chooser)
    with pytest.raises(LabError, match="holds no purifier"):
        factory.conditions(["diffpure"], chooser)
    with pytest.raises(LabError, match="latent"):
        DefenceFactory(tmp_path, tmp_path / "purifier").conditions(["autoencoder"], chooser)


def test_roster_of_a_latent_purifier_has_its_bare_round_trip(victim, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("codefend.lab.evaluate.conditions.diffpure_grid", lambda *_: [])
    LatentPurificationPipeline.tiny().save_pretrained(tmp_path / "base")
    chooser = SettingChooser(victim, scenes[:2], SETTINGS.main_attack, tmp_path)
    factory = DefenceFactory(tmp_path / "base", tmp_path / "base")
    built = factory.conditions(["autoencoder", "purifier"], chooser)
    assert [c.name for c in built] == ["none", "purifier", "autoencoder"]
    assert [c.defence.is_random for c in built] == [False, True, False]
    assert factory.weights["base"] == factory.weights["purifier"]


def test_one_condition_under_two_names_has_one_row_and_a_note(conditions):
    ours = conditions[1].defence
    twin, other = Condition("purifier", ours), Condition("jpeg", jpeg(40))
    prompt = Condition("prompt", NO_DEFENCE, served_prompt)
    kept, notes = distinct([*conditions, twin, prompt, other])
    assert [c.name for c in kept] == ["none", "codefend", "jpeg", "prompt", "jpeg"]
    assert ["`purifier` is `codefend`" in note for note in notes] == [True]
    asked_otherwise = Condition("purifier", ours, lambda task, question: f"Look. {question}")
    assert distinct([*conditions, asked_otherwise]) == ([*conditions, asked_otherwise], [])
