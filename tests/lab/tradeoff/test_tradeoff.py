"""The whole command on a tiny world: every point in the table, no attack made twice, bad words."""

import json

import pytest
from typer.testing import CliRunner

import codefend.lab.evaluate.uploads
from codefend.lab.cli import app
from codefend.lab.errors import LabError
from codefend.lab.experiments.report import Threat, rows_under
from codefend.lab.experiments.statistics import Estimate
from codefend.lab.labels import UNION
from codefend.lab.tradeoff.costs import PHOTO, TIME_METRIC, front_notes
from codefend.lab.tradeoff.points import SERVED, points_of
from codefend.models.detector.calibration import clean_quantiles
from codefend.models.detector.network import SuspicionDetector
from codefend.models.mllm.tiny import tiny_mllm
from codefend.models.purifier.pipeline import PurificationPipeline


@pytest.fixture(scope="module")
def command(world_file, tmp_path_factory):
    root = tmp_path_factory.mktemp("tradeoff")
    for seed in (0, 1):
        PurificationPipeline.tiny(seed=seed).save_pretrained(root / f"purifier{seed}")
    model, processor = tiny_mllm()
    model.save_pretrained(root / "mllm")
    processor.save_pretrained(root / "mllm")
    detector = SuspicionDetector.tiny()
    detector.register_to_config(clean_quantiles=clean_quantiles(range(101)))
    detector.save_pretrained(root / "detector")
    return root, [
        *("trade-off", "--out", str(root / "report"), "--world", str(world_file)),
        *("--victim", str(root / "mllm"), "--rounds", "2", "--device", "cpu"),
        *("--purifier", f"ours={root / 'purifier0'}", "--purifier", f"other={root / 'purifier1'}"),
        *("--surrogate", str(root / "purifier1"), "--detector", str(root / "detector")),
        *("--settings", "0.1x2,ours:0.1x1+jpeg:75,ours:0.02x1/0.1x1+jpeg:75@0.8"),
        *("--num-scenes", "2", "--white-box-scenes", "1", "--steps", "1"),
        "--with-photos",
        *("--tier-steps", "1", "--eot", "1", "--gradients", "exact", "--seeds", "2"),
    ]


@pytest.mark.slow
def test_table_rows_and_picture(command, monkeypatch):
    root, words = command
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads((root / "report" / "report.json").read_text())
    found = {
        (row["defence"], row["tier"], row["metric"]): row
        for row in document["rows"]
        if row["attack"] in {"none", "worst-of-all"} and row["task"] != PHOTO
    }
    photos = [row for row in document["rows"] if row["task"] == PHOTO]
    names = ["purifier", "ours@0.1x2", "ours@0.1x1+jpeg:75", "ours@0.02x1/0.1x1+jpeg:75@0.8"]
    names += ["other@0.05x1", "other@0.1x2"]
    for name in names:
        assert found[name, "clean", "milliseconds_512px"]["value"] > 0
        assert found[name, "clean", "psnr_db"]["n"] == 2
        assert found[name, "t0", "accuracy"]["n"] > found[name, "t2", "accuracy"]["n"] > 0
        if name != "purifier":
            assert ("purifier", "t0", f"accuracy_lead:{name}") in found
            assert ("purifier", "t2", f"accuracy_lead:{name}") in found
    assert [row["defence"] for row in photos if row["metric"] == "psnr_db"] == names
    lines = result.stdout.splitlines()
    num_tables = sum(line.startswith("|---") for line in lines)
    assert sum(line.startswith("| ") for line in lines) == num_tables * (1 + len(names))
    assert "| **ours** | **0.05** | **1** |" in result.stdout
    assert "| ours, then jpeg:75 | 0.1 | 1 |" in result.stdout
    assert "| ours; 0.1x1+jpeg:75 where suspicion > 0.8 | 0.02 | 1 |" in result.stdout
    ways = {row["gradient"] for row in document["rows"] if row["defence"] == names[3]}
    assert {"evading", "surrogate", "bpda"} <= ways, "who evades attacks it, beside its own ways"
    assert {"ours", "other", "detector"} < set(document["meta"]["weights"])
    for picture in ("trade-off.png", "pareto.png"):
        assert (root / "report" / picture).read_bytes().startswith(b"\x89PNG")

    def never(*_, **__):
        raise AssertionError("attacked again")

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_through", never)
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.exit_code == 0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--purifier", "models/weights/purifier", "NAME=DIRECTORY"),
        ("--purifier", "ours=elsewhere", "each name once"),
        ("--settings", "0.05", "such as"),
        ("--settings", "0.05xmuch", "such as"),
        ("--settings", "2x1", "in \\(0, 1\\]"),
        ("--settings", "0.05x0", "at least 1"),
        ("--settings", "theirs:0.05x1", "names none of ours, other"),
        ("--settings", "0.05x1+jpeg:0", "is no defence"),
        ("--settings", "0.05x1/0.1x1", "is no defence"),
        ("--settings", "0.05x1/0.1x1@1", "is no defence"),
        ("--settings", "0.05x1/none@0.8", "is no defence"),
    ],
)
def test_bad_words(command, option, value, said):
    _, words = command
    with pytest.raises(LabError, match=said):
        CliRunner().invoke(app, [*words, option, value], catch_exceptions=False)


def test_the_served_setting_stands_first_and_once():
    pipeline = PurificationPipeline.tiny()
    purifiers = {"ours": (pipeline, "0" * 64), "base": (pipeline, "1" * 64)}
    words = ["0.1x1", "ours:0.05x1", "base:0.2x4", "ours:0.05x1+jpeg:75"]
    points = points_of(purifiers, words)
    assert [point.condition.name for point in points] == [
        "purifier",
        "ours@0.1x1",
        "ours@0.05x1+jpeg:75",
        "base@0.05x1",
        "base@0.1x1",
        "base@0.2x4",
    ]
    assert [(p.noise_level, p.num_steps) for p in points[:3]] == [(0.05, 1), (0.1, 1), (0.05, 1)]
    served, _, behind = points[:3]
    first, codec = behind.condition.defence.parts
    alone = served.condition.defence
    assert (first.name, first.setting) == (alone.name, alone.setting)
    assert codec.setting == "quality=75"
    assert behind.family == "ours+jpeg:75"


def _measured(points, t0, decibels, milliseconds, leads):
    """Rows as a report has them; a lead is of the first point over each other."""
    clean, union = Threat(tier="clean", attack="none"), Threat(tier="t0", attack=UNION)

    def rows(threat, defence, task, metric, value, half=0.01):
        figure = Estimate(value, value - half, value + half, 9)
        return rows_under(threat, [(task, metric, figure)], defence=defence, victim="m", seeds=1)

    found = []
    for point, right, likeness, time in zip(points, t0, decibels, milliseconds, strict=True):
        name = point.condition.name
        found += rows(union, name, "vqa", "accuracy", right)
        found += rows(clean, name, PHOTO, "psnr_db", likeness)
        found += rows(clean, name, None, TIME_METRIC, time)
    for point, lead in zip(points[1:], leads, strict=True):
        found += rows(union, SERVED, "vqa", f"accuracy_lead:{point.condition.name}", lead)
    return found


@pytest.fixture
def rivals():
    pipeline = PurificationPipeline.tiny()
    purifiers = {"ours": (pipeline, "0" * 64), "base": (pipeline, "1" * 64)}
    return points_of(purifiers, ["base:0.2x4", "ours:0.05x1+jpeg:75"])


def test_who_reaches_the_first_point_and_what_it_takes(rivals):
    names = [point.condition.name for point in rivals]
    assert names == ["purifier", "ours@0.05x1+jpeg:75", "base@0.05x1", "base@0.2x4"]
    rows = _measured(
        rivals, [0.9, 0.9, 0.8, 0.9], [30, 30, 31, 25], [100, 100, 100, 390], [0, 0.1, 0.005]
    )
    notes = front_notes(rows, rivals)
    assert "Of the 2 settings of base, 1 reach" in notes
    assert "`base@0.2x4` in 3.9 times its time" in notes
    assert "On the front of T0, photos and time beside them: `purifier`." in notes


def test_a_point_that_is_beaten_is_said_to_be(rivals):
    rows = _measured(
        rivals, [0.9, 0.9, 0.95, 0.9], [30, 30, 31, 25], [100, 100, 103, 390], [0, -0.05, 0.1]
    )
    notes = front_notes(rows, rivals)
    assert "`base@0.05x1` in 1.0 times its time" in notes
    assert "None of the first purifier's settings is on the front" in notes
    assert "`purifier` is behind `base@0.05x1`" in notes


def test_without_another_purifier_there_is_no_front(rivals):
    assert front_notes([], rivals[:2]) == ""
