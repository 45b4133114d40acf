"""The paragraph names the worst of every tier, and whoever does better."""

import dataclasses

from codefend.lab.evaluate.tables import findings
from codefend.lab.experiments.report import Row

ROW = Row(
    tier="t0",
    attack="apgd",
    epsilon=8 / 255,
    defence="codefend",
    victim="tiny",
    task="vqa",
    metric="accuracy",
    value=0.9,
    low=0.88,
    high=0.92,
    n=100,
    seeds=3,
)


def row(value, **fields):
    return dataclasses.replace(ROW, value=value, low=value - 0.02, high=value + 0.02, **fields)


CLEAN = row(0.97, tier="clean", attack="none", epsilon=0.0)


def test_each_tier_is_named_with_its_worst_attack():
    text = findings([CLEAN, row(0.9), row(0.8, attack="patch"), row(0.3, tier="t2")])
    assert "97.0%" in text
    assert "T0, an attacker who does not know of it, leaves 80.0%" in text
    assert "by patch at 8/255 (n = 100)" in text
    assert "T2, one who attacks through the defence itself, leaves 30.0%" in text
    assert text.index("furthest: T2 30.0%") < text.index("; T0 80.0%")


def test_a_point_of_the_step_curve_is_no_headline():
    text = findings([CLEAN, row(0.9), row(0.1, tier="t2", attack="apgd-curve")])
    assert "10.0%" not in text


def test_a_defence_that_does_better_beyond_its_interval_is_named():
    rows = [CLEAN, row(0.4, attack="patch"), row(0.7, attack="patch", defence="jpeg")]
    assert "jpeg under T0 patch (70.0%" in findings(rows)
    near = [CLEAN, row(0.4, attack="patch"), row(0.43, attack="patch", defence="jpeg")]
    assert "does better" not in findings(near)


def test_nothing_is_said_where_nothing_of_ours_was_attacked():
    assert findings([CLEAN]) == ""
    assert findings([row(0.2, defence="jpeg")]) == ""
