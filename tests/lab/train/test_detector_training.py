"""The detector learns from pairs, resumes, and is published with its calibration."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import codefend.lab.train.command
import codefend.lab.train.detector
from codefend.lab.baselines.defence import Defence
from codefend.lab.cli import app
from codefend.lab.detection.scoring import SuspicionScorer, load_detector
from codefend.lab.errors import LabError
from codefend.lab.train.detector import calibration_images, make_examples, train_detector
from codefend.lab.train.loop import LoopSettings
from codefend.models.manifest import read_manifest, verify_weights
from codefend.models.purifier.pipeline import PurificationPipeline

pytestmark = pytest.mark.slow

SMOOTHING = Defence(
    "smoothing", "", lambda images, _: torch.nn.functional.avg_pool2d(images, 3, 1, 1)
)
BOARD = (np.indices((128, 128)).sum(axis=0) % 2 * 2 - 1)[..., None] * 12


@pytest.fixture
def sources(tmp_path):
    """Pairs whose attack is a faint chequerboard, in two folders."""
    rng = np.random.default_rng(0)
    folders = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        coarse = rng.integers(60, 190, (8, 16, 16, 3)).astype(np.uint8)
        clean = coarse.repeat(8, axis=1).repeat(8, axis=2)
        attacked = (clean + BOARD).clip(0, 255).astype(np.uint8)
        epsilon = np.full(8, 12 / 255, np.float32)
        np.savez(folder / "pairs-00000.npz", clean=clean, attacked=attacked, epsilon=epsilon)
        folders.append(folder)
    return folders


def test_examples_are_made_once_and_hold_all_three_kinds(sources, world, tmp_path, monkeypatch):
    def make():
        return make_examples(sources, world, SMOOTHING, tmp_path / "examples", num_crops=4)

    examples = make()
    assert [len(shard.attacked) for shard in examples] == [8, 24, 24]
    assert [int(shard.attacked.sum()) for shard in examples] == [0, 8, 8]
    for shard in examples:
        assert shard.uploads.shape == shard.purified.shape
        assert not np.array_equal(shard.uploads, shard.purified)
    difference = examples[1].uploads[16:].astype(int) - examples[1].uploads[:8]
    assert np.array_equal(difference, np.broadcast_to(BOARD, difference.shape))
    monkeypatch.setattr(codefend.lab.train.detector, "defend", None)
    again = make()
    assert all(np.array_equal(a.uploads, b.uploads) for a, b in zip(examples, again, strict=True))


def test_folders_of_one_name_are_refused(sources, world, tmp_path):
    with pytest.raises(LabError, match="last name"):
        make_examples([sources[0]] * 2, world, SMOOTHING, tmp_path / "x", num_crops=1)


def test_it_learns_to_tell_an_attack_from_what_is_benign(sources, world, tmp_path):
    examples = make_examples(sources, world, SMOOTHING, tmp_path / "examples", num_crops=8)
    settings = LoopSettings(num_steps=25, learning_rate=3e-3, warmup_steps=1, num_workers=0)
    detector = train_detector(examples, tmp_path, settings, batch_size=16)
    scorer = SuspicionScorer(detector, SMOOTHING)
    rng = np.random.default_rng(1)
    clean = list(rng.integers(60, 190, (6, 16, 16, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2))
    attacked = [(image + BOARD).clip(0, 255).astype(np.uint8) for image in clean]
    scores = [scorer.scores(images, seed=0) for images in (clean, attacked)]
    assert scores[0].max() < scores[1].min()


def test_calibration_images_are_of_all_kinds_and_of_validation(world):
    groups = calibration_images(world, 12)
    assert [len(group) for group in groups] == [6, 4, 2] * 2
    for clean, altered in zip(groups[:3], groups[3:], strict=True):
        assert {image.shape for image in clean} == {image.shape for image in altered}
        assert not any(np.array_equal(a, b) for a, b in zip(clean, altered, strict=True))
    assert [group[0].shape for group in groups[:3]] == [(128, 128, 3), *[(224, 224, 3)] * 2]
    assert all(image.dtype == np.uint8 for group in groups for image in group)


def test_the_command_publishes_a_calibrated_detector(sources, world_file, tmp_path, monkeypatch):
    small = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), dtype=np.uint8)
    monkeypatch.setattr(
        codefend.lab.train.command, "calibration_images", lambda *_, **__: [list(small)]
    )
    PurificationPipeline.tiny().save_pretrained(tmp_path / "purifier")
    weights = tmp_path / "weights"
    arguments = ["train", "detector", "--world", str(world_file), "--runs", str(tmp_path / "runs")]
    arguments += ["--weights", str(weights), "--purifier", str(tmp_path / "purifier")]
    arguments += [word for folder in sources for word in ("--pairs", str(folder))]
    arguments += ["--num-crops", "4", "--steps", "2"]
    arguments += ["--batch-size", "4", "--num-workers", "0"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    (entry,) = read_manifest(weights)
    assert entry.name == "detector"
    assert list(verify_weights(entry, weights)) == []
    detector, _ = load_detector(weights / "detector")
    assert len(detector.config.clean_quantiles) == 201
