"""The rows of detection, from a detector whose verdicts are known."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from codefend.lab.attacks.adaptive import ThroughDefence
from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import NO_DEFENCE, Defence, chained, defend
from codefend.lab.baselines.filters import gaussian_noise
from codefend.lab.baselines.named import defence_named
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.cli import app
from codefend.lab.detection.scoring import (
    SuspicionScorer,
    auroc,
    calibrate,
    detection_rows,
    detection_table,
    load_detector,
    logged_suspicions,
    recalibrate,
)
from codefend.lab.errors import LabError
from codefend.lab.evaluate.uploads import Uploads
from codefend.lab.experiments.craft import gradients_of
from codefend.lab.experiments.report import Threat
from codefend.models.detector.calibration import (
    clean_quantiles,
    is_flagged,
    scores_of,
    suspicions_of,
)
from codefend.models.detector.network import SuspicionDetector
from codefend.models.purifier.pipeline import PurificationPipeline

NOTHING = Defence(
    "nothing",
    "",
    lambda images, generator: images,
    gradient_paths={"exact": lambda images, generator: images},
)


class Brightness(SuspicionDetector):
    """Scores an upload by its mean level, in levels of 255."""

    def forward(self, images, purified):
        return images.mean(dim=(1, 2, 3)) * 255


@pytest.fixture
def scorer():
    return SuspicionScorer(
        Brightness(widths=(8,), clean_quantiles=clean_quantiles(range(101))), NOTHING
    )


def grey(level):
    return np.full((8, 8, 3), level, np.uint8)


def test_auroc_counts_pairs_in_order_and_ties_half():
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1.0
    assert auroc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 0.0
    assert auroc(np.array([2.0, 2.0]), np.array([2.0, 2.0])) == 0.5
    assert auroc(np.array([2.0, 5.0]), np.array([1.0, 3.0])) == 0.75


def test_suspicion_follows_the_calibration(scorer):
    images = [grey(0), grey(50), grey(200)]
    assert scorer.suspicions(images, seed=0) == pytest.approx([0, 0.5, 1])


def test_rows_tell_what_is_caught_and_what_is_flagged(scorer):
    clean = [grey(level) for level in range(20, 60)]
    attacked = [grey(level) for level in range(50, 130, 2)]
    threat = Threat(tier=Tier.OBLIVIOUS, attack="apgd", epsilon=8 / 255, family="language_loss")
    benign = Uploads(Threat(tier=Tier.CLEAN, attack="scene"), clean)
    rows = detection_rows([benign, Uploads(threat, attacked, clean)], scorer, victim="v", seeds=2)
    found = {(row.attack, row.metric): row for row in rows}
    assert set(found) == {
        ("scene", "flagged"), ("apgd", "flagged"), ("apgd", "auroc"), ("apgd", "tpr_at_1fpr")
    }  # fmt: skip
    assert found["scene", "flagged"].value == 0
    assert found["apgd", "flagged"].value == pytest.approx(np.mean(np.arange(50, 130, 2) > 99))
    caught = found["apgd", "tpr_at_1fpr"]
    assert caught.value == pytest.approx(np.mean(np.arange(50, 130, 2) > 58.61))
    assert caught.low < caught.value < caught.high
    assert 0.9 < found["apgd", "auroc"].value < 1
    assert all(row.defence == "codefend" and row.n == 40 and row.seeds == 2 for row in rows)
    table = detection_table(rows)
    assert "| t0 | apgd | language_loss | no | 8/255 |" in table
    assert len(table.splitlines()) == 4


def test_scores_come_back_from_suspicions():
    quantiles = clean_quantiles(np.random.default_rng(0).normal(size=1000))
    scores = np.linspace(quantiles[1], quantiles[-2], 50)
    assert scores_of(suspicions_of(scores, quantiles), quantiles) == pytest.approx(scores)
    with pytest.raises(ValueError, match="on the images themselves"):
        scores_of([1.0] * 2 + [0.5] * 98, quantiles)


def test_a_detector_is_calibrated_on_what_a_service_logged(scorer, tmp_path):
    calibrate(scorer, [grey(level) for level in range(50, 250)])
    traffic = [grey(level) for level in range(60, 160)]  # duller than the calibration's images
    suspicions = scorer.suspicions(traffic, seed=0)
    assert not any(map(is_flagged, suspicions))
    lines = [
        {"message": "image", "sha256": str(number), "width": 64, "height": 64, "suspicion": found}
        for number, found in enumerate(suspicions)
    ]
    others = [
        lines[0],  # the same file again
        {"message": "request", "suspicion": 1.0},
        lines[1] | {"sha256": "large", "width": 4000, "suspicion": 1.0},
        lines[1] | {"sha256": "failed", "suspicion": None},
    ]
    log = tmp_path / "guard.log"
    log.write_text("\n".join(["guard | nonsense", *map(json.dumps, [*lines, *others])]))
    found = logged_suspicions(log, 1024)
    assert found == pytest.approx(list(suspicions))
    recalibrate(scorer.detector, found)
    flags = [is_flagged(suspicion) for suspicion in scorer.suspicions(traffic, seed=0)]
    assert sum(flags) == 1
    with pytest.raises(ValueError, match="at least 100"):
        recalibrate(scorer.detector, found[:99])


def test_calibration_makes_a_hundredth_of_the_clean_images_suspicious(scorer):
    calibrate(scorer, [grey(level) for level in range(100, 200)])
    assert scorer.suspicions([grey(100), grey(199)], seed=0) == pytest.approx([0, 1])
    with pytest.raises(ValueError, match="at least 100"):
        calibrate(scorer, [grey(1)])


def test_no_group_of_clean_images_is_flagged_more_than_another(scorer):
    dark = [grey(level) for level in range(100, 200)]
    bright = [grey(level) for level in range(120, 220)]
    calibrate(scorer, dark, bright)
    assert scorer.suspicions([grey(120), grey(219)], seed=0) == pytest.approx([0, 1])
    assert np.mean(scorer.suspicions(dark, seed=0) > 0.99) == 0
    assert np.mean(scorer.suspicions(bright, seed=0) > 0.99) == pytest.approx(0.01)


class Sum(nn.Module):
    def forward(self, images):
        return images.sum(dim=(1, 2, 3))


HALVED = Defence(
    "halved", "", lambda images, generator: images / 2,
    gradient_paths={"exact": lambda images, generator: images / 2},
)  # fmt: skip


@pytest.mark.parametrize("harmed", [HALVED, NO_DEFENCE])
def test_who_evades_trades_harm_against_excess_suspicion(scorer, harmed):
    evading = ThroughDefence(
        Sum(),
        harmed.gradient_paths["exact"],
        torch.Generator().manual_seed(0),
        num_draws=3,
        penalty=partial(scorer.excess, above=0.8),
    )
    dark, light = torch.full((1, 3, 4, 4), 0.1), torch.full((1, 3, 4, 4), 0.8)
    share = 0.5 if harmed is HALVED else 1.0
    assert evading(dark).item() == pytest.approx(48 * 0.1 * share)
    assert evading(light).item() == pytest.approx(48 * 0.8 * share - (204 - 40))
    light.requires_grad_(True)
    (slope,) = torch.autograd.grad(evading(light).sum(), light)
    assert torch.allclose(slope, torch.full_like(slope, share - 255 / 48))


def test_a_choice_is_harsh_to_what_is_suspicious_and_to_nothing_else(scorer):
    choice = scorer.choice(0.8, NO_DEFENCE, HALVED)
    images = [grey(level) for level in (10, 79, 82, 200)]
    levels = [int(image.max()) for image in defend(choice, images, seed=0)]
    assert levels == [10, 79, 41, 100]
    assert defend(choice, images[:1], seed=0)[0].max() == 10, "none alarmed"
    assert defend(choice, images[2:], seed=0)[0].max() == 41, "all alarmed"
    assert choice.name == "none/halved"
    assert choice.setting.startswith("suspicion>0.8 weights=")


def test_the_ways_through_a_choice_are_who_evades_and_whichever_is_applied(scorer):
    choice = scorer.choice(0.8, HALVED, jpeg(30))
    assert choice.gradients == ["evading", "surrogate", "bpda"]
    images = torch.rand((6, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images[:3] *= 0.3
    noise = torch.Generator().manual_seed(0)
    assert torch.equal(choice.gradient_paths["evading"](images, noise), images / 2)
    assert list(choice.penalties) == ["evading"]
    paid = choice.penalties["evading"](images, noise)
    assert torch.allclose(paid, (255 * images.mean(dim=(1, 2, 3)) - 40).relu(), atol=1e-3)
    wanted = choice.apply(images, noise)
    for way in ("surrogate", "bpda"):
        uploads = images.clone().requires_grad_(True)
        found = choice.gradient_paths[way](uploads, noise)
        assert torch.allclose(found, wanted, atol=1e-6)
        (slope,) = torch.autograd.grad(found.square().sum(), uploads)
        assert all(float(each.abs().max()) > 0 for each in slope)


def test_whoever_attacks_a_choice_also_evades(scorer):
    exact = scorer.choice(0.8, NO_DEFENCE, HALVED)
    assert gradients_of(exact) == ["evading", "exact"]
    assert gradients_of(scorer.choice(0.8, HALVED, jpeg(30))) == ["evading", "surrogate", "bpda"]
    with pytest.raises(ValueError, match="no part of a chain"):
        chained([exact, jpeg(30)])


def test_words_choose_by_suspicion(scorer):
    found = defence_named("jpeg:90/noise:0.05+jpeg:30@0.8", {}, scorer.choice)
    wanted = scorer.choice(0.8, jpeg(90), chained([gaussian_noise(0.05), jpeg(30)]))
    assert (found.name, found.setting) == (wanted.name, wanted.setting)
    for word in ("none/jpeg:30@1", "none/jpeg:30@0", "none/jpeg:30@", "none/jpeg:30"):
        with pytest.raises(LabError, match="no defence"):
            defence_named(word, {}, scorer.choice)
    with pytest.raises(LabError, match="--detector"):
        defence_named("none/jpeg:30@0.8", {})


def test_commands_calibrate_on_a_folder_and_refuse_a_small_one(tmp_path):
    SuspicionDetector.tiny().save_pretrained(tmp_path / "detector")
    PurificationPipeline.tiny().save_pretrained(tmp_path / "purifier")
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(100):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    arguments = ["detect", "calibrate", "--photos", str(photos), "--out", str(tmp_path / "mine")]
    arguments += ["--detector", str(tmp_path / "detector")]
    arguments += ["--purifier", str(tmp_path / "purifier")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "CODEFEND_DETECTOR" in result.output
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert len(config["clean_quantiles"]) == 201
    detector, _ = load_detector(tmp_path / "mine")
    purifier = purifying("purifier", PurificationPipeline.tiny(), "0" * 64)
    fresh = [rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(50)]
    assert 0.2 < SuspicionScorer(detector, purifier).suspicions(fresh, seed=1).mean() < 0.8
    (photos / "0.png").unlink()
    with pytest.raises(LabError, match="100 or more"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_folder_without_a_detector_is_named(tmp_path):
    with pytest.raises(LabError, match="codefend-lab train detector"):
        load_detector(tmp_path)
