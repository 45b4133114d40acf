"""The settings of `evaluate`, from presets and words, and its own whole run at tiny size."""

import json

import pytest
import typer
from typer.testing import CliRunner

from codefend.lab.attacks.interface import Tier
from codefend.lab.errors import LabError
from codefend.lab.evaluate.command import Evaluate
from codefend.lab.evaluate.context import TierSettings
from codefend.lab.experiments.settings import add_experiments, read_settings
from codefend.models.purifier.pipeline import PurificationPipeline


def read(*words):
    return read_settings(Evaluate, ["--out", "x", *words], command="evaluate")


def test_the_preset_holds_where_nothing_is_said():
    assert read().adaptive == read("--budget", "cpu").adaptive
    assert read().adaptive.num_scenes == {
        Tier.TRANSFER: 64,
        Tier.WHITE_BOX: 32,
        Tier.RESUBMISSION: 64,
        Tier.QUERY: 16,
    }
    gpu = read("--budget", "gpu").adaptive
    assert gpu.num_scenes[Tier.WHITE_BOX] == 256
    assert gpu.num_scenes_diffpure == 64
    assert gpu.num_draws >= 16
    assert TierSettings().num_scenes == gpu.num_scenes


def test_words_change_the_settings():
    settings = read(
        *("--tier-goals", "margin,language", "--gradients", "bpda,exact"),
        *("--tier-scenes", "t2=5,t4=1", "--curve-steps", "1,2", "--queries", "30"),
        *("--purifier-dtype", "bfloat16", "--tier-steps", "7", "--curve-scenes", "3"),
    ).adaptive
    assert settings.goals == ("language", "margin")
    assert settings.gradients == ("exact", "bpda")
    assert settings.num_scenes[Tier.WHITE_BOX] == settings.num_through("diffpure") == 5
    assert settings.num_scenes[Tier.TRANSFER] == 64
    assert (settings.curve_steps, settings.num_queries) == ((1, 2), (30,))
    assert (settings.steps, settings.num_draws, settings.num_scenes_curve) == (7, 16, 3)
    assert settings.autocast == "bfloat16"
    for words in (("--eot", "3"), ("--eot=3",)):
        draws = read(*words).adaptive
        assert (draws.num_draws, draws.num_draws_network, draws.num_draws_curve) == (3, 3, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--tier-goals", "encoder"),
        ("--tier-goals", "magic"),
        ("--gradients", "exact,magic"),
        ("--tier-scenes", "t9=3"),
        ("--tier-scenes", "t1"),
        ("--tier-scenes", "t1=0"),
        ("--curve-steps", "0"),
        ("--queries", "many"),
        ("--tier-steps", "0"),
        ("--epsilons", "0"),
    ],
)
def test_other_words_are_the_users_error(wrong):
    with pytest.raises(LabError):
        read(*wrong)


def test_tiers_by_name():
    assert read("--tier", "all").tiers == tuple(tier for tier in Tier if tier is not Tier.CLEAN)
    assert read("--tier", "t2,t0").tiers == (Tier.OBLIVIOUS, Tier.WHITE_BOX)
    with pytest.raises(LabError, match="--tiers takes names from"):
        read("--tier", "t7")
    assert read("--goals", "encoder").oblivious.goals == ("encoder",)
    assert read("--epsilons", "4,8").oblivious.epsilons == (4, 8)


def test_the_services_key_is_never_written_down(monkeypatch):
    monkeypatch.setenv("CODEFEND_LAB_SERVICE_KEY", "sesame")
    settings = read()
    assert settings.service_key.get_secret_value() == "sesame"
    assert "sesame" not in f"{settings} {settings.model_dump_json()}"


@pytest.fixture
def arguments(victim, world_file, tmp_path):
    victim.model.save_pretrained(tmp_path / "victim")
    victim.processor.save_pretrained(tmp_path / "victim")
    for name in ("purifier", "base"):
        PurificationPipeline.tiny().save_pretrained(tmp_path / name)
    options = {
        "out": tmp_path / "out",
        "world": world_file,
        "victim": tmp_path / "victim",
        "purifier": tmp_path / "purifier",
        "base": tmp_path / "base",
        "surrogate": tmp_path / "base",
        "defences": "none,purifier",
        "steps": 1,
        "num-scenes": 4,
        "num-validation": 1,
        "seeds": 1,
        "device": "cpu",
        "tier-steps": 1,
        "tier-scenes": "t1=1,t2=1,t3=1,t4=1",
        "eot": 1,
        "gradients": "exact,bpda",
        "curve-steps": "1",
        "curve-scenes": 1,
    }
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def run(*arguments):
    app = typer.Typer()
    add_experiments(app, [Evaluate])
    return CliRunner().invoke(app, ["evaluate", *arguments])


@pytest.mark.slow
def test_failed_checks_are_loud_and_everything_is_written(arguments, tmp_path):
    result = run(*arguments, "--tier", "t1,t2,t3")
    assert result.exit_code == 1, result.output
    assert "DO NOT RELY ON THIS REPORT" in result.stderr
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["tier"] for row in document["rows"]} == {"clean", "t1", "t2", "t3"}
    # The controls come along unasked.
    assert {"blur", "jpeg", "noise"} <= {row["defence"] for row in document["rows"]}
    failed = [check["name"] for check in document["checks"] if not check["passed"]]
    assert "control: noise is broken at 8/255" in failed  # with one draw, not sixteen
    assert set(document["meta"]["weights"]) == {"victim", "purifier", "surrogate"}
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert markdown.startswith("> **DO NOT RELY ON THIS REPORT")
    for title in ("## T1", "## T2", "## T3", "## Checks"):
        assert title in markdown
    # The report says what made it, so that it can be made again.
    settings = document["meta"]["settings"]
    assert (settings["tiers"], settings["adaptive"]["steps"]) == (["t1", "t2", "t3"], 1)
    assert "service_key" not in settings


def test_queries_need_a_service(arguments):
    result = run(*arguments, "--tier", "t4")
    assert isinstance(result.exception, LabError)
    assert "--defence-url" in str(result.exception)
