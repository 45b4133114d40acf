"""Plans from the command line's words, and its own whole run at tiny size."""

import json

import pytest
import typer
from typer.testing import CliRunner

from codefend.lab.attacks.interface import Tier
from codefend.lab.errors import LabError
from codefend.lab.evaluate.command import register
from codefend.lab.evaluate.options import parse_tiers
from codefend.lab.evaluate.tiers.plan import Budget, plan_for
from codefend.lab.evaluate.tiers.requested import requested_goals, requested_numbers, requested_plan
from codefend.models.purifier.pipeline import PurificationPipeline


def test_budget_holds_where_nothing_is_said():
    for budget in Budget:
        assert requested_plan(budget) == plan_for(budget)
    assert plan_for(Budget.CPU).num_scenes == {
        Tier.TRANSFER: 64,
        Tier.WHITE_BOX: 32,
        Tier.RESUBMISSION: 64,
        Tier.QUERY: 16,
    }
    assert plan_for(Budget.GPU).num_scenes[Tier.WHITE_BOX] == 256
    assert plan_for(Budget.GPU).num_scenes_diffpure == 64
    assert plan_for(Budget.GPU).num_draws >= 16


def test_words_change_the_plan():
    plan = requested_plan(
        Budget.CPU,
        goals="margin,language",
        gradients="bpda,exact",
        scenes="t2=5,t4=1",
        curve_steps="1,2",
        queries="30",
        autocast="bfloat16",
        numbers={"steps": 7, "num_draws": 0, "num_scenes_curve": 3},
    )
    assert plan.goals == ("language", "margin")
    assert plan.gradients == ("exact", "bpda")
    assert plan.num_scenes[Tier.WHITE_BOX] == plan.num_scenes_diffpure == 5
    assert plan.num_scenes[Tier.TRANSFER] == 64
    assert (plan.curve_steps, plan.num_queries) == ((1, 2), (30,))
    assert (plan.steps, plan.num_draws, plan.num_scenes_curve) == (7, 16, 3)
    assert plan.autocast == "bfloat16"


@pytest.mark.parametrize(
    "wrong",
    [
        {"goals": "encoder"},
        {"goals": "magic"},
        {"gradients": "exact,magic"},
        {"scenes": "t9=3"},
        {"scenes": "t1"},
        {"scenes": "t1=0"},
        {"curve_steps": "0"},
        {"queries": "many"},
    ],
)
def test_other_words_are_the_users_error(wrong):
    with pytest.raises(LabError):
        requested_plan(Budget.CPU, **wrong)


def test_tiers_by_name():
    assert parse_tiers("all") == tuple(tier for tier in Tier if tier is not Tier.CLEAN)
    assert parse_tiers("t2,t0") == (Tier.OBLIVIOUS, Tier.WHITE_BOX)
    with pytest.raises(LabError, match="--tier takes all"):
        parse_tiers("t7")
    assert requested_goals("encoder", "--goals") == ("encoder",)
    assert requested_numbers("4,8", "--epsilons") == (4, 8)


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
    register(app)
    return CliRunner().invoke(app, arguments)


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


def test_queries_need_a_service(arguments):
    result = run(*arguments, "--tier", "t4")
    assert isinstance(result.exception, LabError)
    assert "--defence-url" in str(result.exception)
