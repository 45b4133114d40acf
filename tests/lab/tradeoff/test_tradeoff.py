"""The whole command on a tiny world: every point in the table, no attack made twice, bad words."""

import json

import pytest
from typer.testing import CliRunner

import codefend.lab.evaluate.uploads
from codefend.lab.cli import app
from codefend.lab.errors import LabError
from codefend.lab.tradeoff.command import points_of
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
    return root, [
        *("trade-off", "--out", str(root / "report"), "--world", str(world_file)),
        *("--victim", str(root / "mllm"), "--rounds", "2", "--device", "cpu"),
        *("--purifier", f"ours={root / 'purifier0'}", "--purifier", f"other={root / 'purifier1'}"),
        *("--surrogate", str(root / "purifier1"), "--settings", "0.1x1,0.1x2"),
        *("--num-scenes", "2", "--white-box-scenes", "1", "--steps", "1"),
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
        if row["attack"] in {"none", "worst-of-all"}
    }
    names = ["purifier", "ours@0.1x1", "ours@0.1x2"]
    names += ["other@0.05x1", "other@0.1x1", "other@0.1x2"]
    for name in names:
        assert found[name, "clean", "milliseconds_512px"]["value"] > 0
        assert found[name, "clean", "psnr_db"]["n"] == 2
        assert found[name, "t0", "accuracy"]["n"] > found[name, "t2", "accuracy"]["n"] > 0
        if name != "purifier":
            assert ("purifier", "t2", f"accuracy_lead:{name}") in found
    assert result.stdout.count("\n| ") == len(names)
    assert "| **ours** | **0.05** | **1** |" in result.stdout
    assert (root / "report" / "trade-off.png").read_bytes().startswith(b"\x89PNG")

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
    ],
)
def test_bad_words(command, option, value, said):
    _, words = command
    with pytest.raises(LabError, match=said):
        CliRunner().invoke(app, [*words, option, value], catch_exceptions=False)


def test_the_served_setting_stands_first_and_once():
    pipeline = PurificationPipeline.tiny()
    points = points_of({"ours": (pipeline, "0" * 64)}, [(0.1, 1), (0.05, 1)])
    assert [point.condition.name for point in points] == ["purifier", "ours@0.1x1"]
    assert [(point.noise_level, point.num_steps) for point in points] == [(0.05, 1), (0.1, 1)]
