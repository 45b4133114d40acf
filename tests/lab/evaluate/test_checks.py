"""Every check passes on rows that deserve it and fails on each way not to."""

import dataclasses

import pytest

from codefend.lab.evaluate.checks import (
    check_black_box,
    check_controls,
    check_curve,
    check_epsilons,
    check_noise,
    check_order,
    check_report,
)
from codefend.lab.experiments.report import Row

ROW = Row(
    tier="t2",
    attack="apgd-margin",
    family="language_loss",
    held_out=False,
    targeted=False,
    epsilon=8 / 255,
    steps=100,
    eot=16,
    gradient="exact",
    restarts=1,
    defence="codefend",
    victim="tiny",
    task="vqa",
    metric="accuracy",
    value=0.5,
    low=0.4,
    high=0.6,
    n=100,
    seeds=3,
)


def row(value, **fields):
    return dataclasses.replace(ROW, value=value, low=value - 0.05, high=value + 0.05, **fields)


def curve(*values):
    steps = zip((50, 100, 200, 400), values, strict=True)
    return [row(value, steps=step, attack="apgd-margin-curve") for step, value in steps]


CONTROLS = [
    row(0.1, metric="accuracy_of_clean", defence="blur", eot=1),
    row(0.1, metric="accuracy_of_clean", defence="jpeg", gradient="bpda", eot=1),
    row(0.1, metric="accuracy_of_clean", defence="noise"),
]
UNION = row(0.5, attack="worst-of-all", gradient="union")
LOST = [
    row(0.4, metric="accuracy_lost"),
    row(0.2, metric="accuracy_lost", tier="t1", gradient="transfer"),
    row(0.01, metric="accuracy_lost", attack="uniform_noise", gradient="none"),
]
UNION_LOST = row(0.45, metric="accuracy_lost", attack="worst-of-all", gradient="union")
QUERIED = [
    row(0.1, metric="accuracy_lost", tier="t4", attack=f"{attack}-{setting}")
    for attack in ("square", "mf-tt")
    for setting in ("full", "minimal")
]
RADII = [
    row(value, tier="t0", defence="none", epsilon=levels / 255, attack="apgd")
    for levels, value in ((4, 0.7), (8, 0.3), (16, 0.1))
]
QUIET = [
    row(0.96, tier="t0", defence="none", attack="uniform_noise"),
    row(0.99, tier="t0", defence="none", attack="uniform_noise", metric="accuracy_of_clean"),
]
GOOD = [*CONTROLS, UNION, UNION_LOST, *LOST, *curve(0.5, 0.5, 0.5, 0.48), *QUERIED, *RADII, *QUIET]
TIERS = {"t0", "t1", "t2", "t3", "t4"}


def without(rows, *removed):
    return [kept for kept in rows if kept not in removed]


def test_good_report_passes_every_check():
    checks = check_report(GOOD, TIERS)
    assert all(check.passed for check in checks), checks
    assert len(checks) == 10
    assert all(check.reason for check in checks)


def test_empty_report_fails_whatever_was_to_be_measured():
    assert not any(check.passed for check in check_report([], {"t0"}))
    assert not any(check.passed for check in check_report([], {"t2"}))
    assert check_report([], {"clean"}) == []


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.defence)
def test_control_that_stands_fails(control):
    assert check_controls(GOOD, control.defence).passed
    standing = dataclasses.replace(control, value=0.151)
    check = check_controls([*without(GOOD, control), standing], control.defence)
    assert not check.passed
    assert "15.1%" in check.reason


@pytest.mark.parametrize(
    "change", [{"gradient": "surrogate"}, {"epsilon": 16 / 255}, {"tier": "t0"}]
)
@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.defence)
def test_control_broken_in_another_way_does_not_count(control, change):
    rows = [*without(GOOD, control), dataclasses.replace(control, **change)]
    assert not check_controls(rows, control.defence).passed


def test_noise_control_needs_sixteen_draws():
    rows = [*CONTROLS[:2], dataclasses.replace(CONTROLS[2], eot=1)]
    assert not check_controls(rows, "noise").passed


def test_curve_that_still_falls_fails():
    assert check_curve([UNION, *curve(0.6, 0.5, 0.5, 0.46)], "codefend").passed
    assert not check_curve([UNION, *curve(0.6, 0.5, 0.5, 0.44)], "codefend").passed
    # Where 50 steps are reported, 50 must be enough.
    short = dataclasses.replace(UNION, steps=50)
    assert not check_curve([short, *curve(0.6, 0.5, 0.5, 0.46)], "codefend").passed
    assert not check_curve([UNION, *curve(0.5, 0.5, 0.5, 0.5)[:3]], "codefend").passed


def test_epsilon_must_tell():
    assert check_epsilons(RADII).passed
    weak = dataclasses.replace(RADII[2], value=0.31)
    assert not check_epsilons([*RADII[:2], weak]).passed
    flat = [dataclasses.replace(each, value=0.5) for each in RADII]
    assert not check_epsilons(flat).passed
    assert not check_epsilons(RADII[:1]).passed


def test_noise_must_not():
    assert check_noise(QUIET, "none").passed
    loud = [QUIET[0], dataclasses.replace(QUIET[1], value=0.97)]
    assert not check_noise(loud, "none").passed  # 0.96 / 0.97 - 0.96 is 3 points
    assert check_noise(LOST, "codefend").passed
    assert not check_noise([dataclasses.replace(LOST[2], value=0.021)], "codefend").passed
    assert not check_noise([], "codefend").passed


def test_masked_gradients_show():
    assert check_order(LOST, "codefend").passed
    masked = dataclasses.replace(LOST[0], value=0.1)
    # The union would hide it: it holds the transferred attack.
    assert not check_order([masked, *LOST[1:], UNION_LOST], "codefend").passed
    loud = dataclasses.replace(LOST[2], value=0.3)
    assert not check_order([*LOST[:2], loud], "codefend").passed
    assert not check_order(LOST[:2], "codefend").passed


def test_queries_that_beat_the_white_box_show():
    assert check_black_box([UNION_LOST, *QUERIED]).passed
    assert not check_black_box([dataclasses.replace(UNION_LOST, value=0.05), *QUERIED]).passed
    assert not check_black_box([UNION_LOST]).passed


def test_one_disclosure_setting_is_not_both():
    rows = [each for each in GOOD if not each.attack.endswith("-minimal")]
    failed = [check for check in check_report(rows, TIERS) if not check.passed]
    assert [check.name for check in failed] == ["T4 at both disclosure settings"]
    assert "square-minimal" in failed[0].reason
