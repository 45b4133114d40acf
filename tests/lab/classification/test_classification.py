"""A classifier is attacked on windows that it is sure of; what comes back is counted by photo."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lab.classification.evaluation
from lab.baselines.compression import jpeg
from lab.baselines.defence import NO_DEFENCE
from lab.classification.command import classify
from lab.classification.evaluation import ClassificationPlan, evaluate_classifier
from lab.classification.windows import SIDE_PX, Windows, confident_windows
from lab.errors import LabError
from lab.evaluate.command import CONTROL_NOISE
from lab.evaluate.specimens import Specimen
from lab.victims.classifier import ClassifierVictim
from lab.victims.preprocess import Preprocess
from lab.victims.twins.pixel_scale import PixelScale
from lab.victims.twins.resize_crop import ResizeCrop

PLAN = ClassificationPlan(epsilons=(8 / 255,), steps=3, seeds=1)


class Brightness(torch.nn.Module):
    """Light or dark, by the mean level; as sure as it is far from the middle."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, pixels):
        mean = (pixels.mean(dim=(1, 2, 3)) - 128) * self.weight
        return torch.stack([mean, -mean, torch.zeros_like(mean)], dim=1)


@pytest.fixture
def classifier():
    scale = PixelScale(rescale_factor=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    preprocess = Preprocess(ResizeCrop(resample=3, crop=None, scale=scale))
    return ClassifierVictim("brightness", Brightness().eval(), preprocess, "0" * 64)


def photo(level, side=256):
    return Specimen("photo", np.full((side, side, 3), level, np.uint8), str(level))


def test_only_windows_that_it_is_sure_of_are_asked_about(classifier):
    photos = [photo(128), photo(132), photo(120), photo(10, side=200)]
    windows = confident_windows(photos, classifier, per_photo=2, seed=0)
    assert windows.num_tried == 6  # the small photo is passed over
    assert windows.photos.tolist() == [1, 1, 2, 2]
    assert windows.labels.tolist() == [0, 0, 1, 1]
    assert windows.coverage == "4 of 6 windows, of 2 photos"
    assert all(image.shape == (SIDE_PX, SIDE_PX, 3) for image in windows.images)


def test_a_classifier_that_is_never_sure_is_said_to_be(classifier):
    with pytest.raises(LabError, match="sure of none"):
        confident_windows([photo(128)], classifier, per_photo=1, seed=0)


def test_attacks_move_what_is_near_and_no_more(classifier, tmp_path, monkeypatch):
    images = [np.full((32, 32, 3), level, np.uint8) for level in (131, 200)]
    windows = Windows(images, torch.tensor([0, 0]), np.array([0, 1]), 2)
    run = partial(evaluate_classifier, classifier, windows, [NO_DEFENCE, jpeg(90)], PLAN, tmp_path)
    rows = run()
    attacked = [row for row in rows if row.tier == "t0"]
    assert {row.attack for row in attacked} == {"pgd", "pgd-margin", "worst-of-all"}
    assert all(row.value == 0.5 and row.n == 2 for row in attacked)
    assert all(row.value == 1.0 for row in rows if row.metric == "agreement")
    assert {row.defence for row in rows} == {"none", "jpeg quality=90"}

    def forbidden(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(lab.classification.evaluation, "attack_pixels", forbidden)
    assert run() == rows


def test_the_command_writes_a_report(world_file, tmp_path, monkeypatch):
    import typer

    app = typer.Typer()
    app.command()(classify)
    monkeypatch.setattr("lab.classification.windows.LEAST_CONFIDENCE", 0.0)
    monkeypatch.setattr("lab.classification.command.diffpure_grid", lambda *_: [])
    out = tmp_path / "report"
    told = CliRunner().invoke(
        app,
        f"--out {out} --world {world_file} --per-photo 1 --steps 1 --seeds 1 "
        "--victims efficientnet-lite0".split(),
    )
    assert told.exit_code == 0, told.output
    rows = json.loads((out / "report.json").read_text())["rows"]
    assert {row["task"] for row in rows} == {"classification"}
    assert {"none", f"purifier noise_level={CONTROL_NOISE} num_steps=1"} <= {
        row["defence"] for row in rows
    }
    assert "| efficientnet-lite0 | clean | 4/255 | 8/255 | n |" in (out / "report.md").read_text()
    refused = CliRunner().invoke(
        app, ["--out", str(out), "--world", str(world_file), "--victims", "resnet"]
    )
    assert isinstance(refused.exception, LabError)
