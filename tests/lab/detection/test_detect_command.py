"""``detect evaluate`` as a whole, on a tiny world: every kind of image has its rows, once made."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import codefend.lab.evaluate.uploads
from codefend.lab.cli import app
from codefend.lab.errors import LabError
from codefend.models.detector.calibration import clean_quantiles
from codefend.models.detector.network import SuspicionDetector


@pytest.fixture(scope="module")
def words(world_file, tiny_weights, tmp_path_factory):
    root = tmp_path_factory.mktemp("detect")
    detector = SuspicionDetector.tiny()
    detector.save_pretrained(root / "uncalibrated")
    detector.register_to_config(clean_quantiles=clean_quantiles(range(-100, 100)))
    detector.save_pretrained(root / "detector")
    return [
        *("detect", "evaluate", "--out", str(root / "report"), "--world", str(world_file)),
        *("--detector", str(root / "detector"), "--purifier", str(tiny_weights / "purifier")),
        *("--victim", str(tiny_weights / "mllm"), "--surrogate-models", ""),
        *("--families", "low_frequency", "--family-scenes", "2", "--steps", "1"),
        *("--num-scenes", "4", "--num-scenes-other", "2"),
        *("--evading-scenes", "1", "--evading-steps", "1", "--num-documents", "1", "--seeds", "2"),
        *("--device", "cpu"),
    ]


@pytest.mark.slow
def test_every_kind_of_image_is_scored(words, monkeypatch):
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads((folder_of(words) / "report" / "report.json").read_text())["rows"]
    found = {(row["tier"], row["attack"], row["targeted"], row["metric"]) for row in rows}
    for image in ("scene", "scene-jpeg-50", "photo", "photo-resize-0.5", "page", "receipt"):
        assert ("clean", image, False, "flagged") in found
    for tier, attack in (("t0", "apgd"), ("t0", "low_frequency"), ("t2", "evading-purified")):
        for metric in ("flagged", "auroc", "tpr_at_1fpr"):
            assert (tier, attack, False, metric) in found
    assert ("t0", "apgd", True, "auroc") in found
    assert {row["seeds"] for row in rows} == {2}

    def never(*_, **__):
        raise AssertionError("attacked again")

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_uploads", never)
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.stdout == result.stdout


def test_a_detector_without_a_calibration_is_named(words):
    option = ["--detector", str(folder_of(words) / "uncalibrated")]
    with pytest.raises(LabError, match="detect calibrate"):
        CliRunner().invoke(app, [*words, *option], catch_exceptions=False)


def folder_of(words):
    return Path(words[words.index("--out") + 1]).parent
