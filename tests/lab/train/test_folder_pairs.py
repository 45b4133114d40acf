"""Pairs of a user's own pictures: of the train split alone, within their radius, resumable."""

import numpy as np
import pytest
import torch

from codefend.lab.errors import LabError
from codefend.lab.folders.folder import open_folder
from codefend.lab.train.command import pairs, purifier
from codefend.lab.train.crops import photo_crops
from codefend.lab.train.pairs import PairSettings, load_pairs, make_folder_pairs
from codefend.lab.train.settings import PairsRun, PurifierKind, PurifierRun
from tests.pictures_folder import draw_pictures


@pytest.fixture
def images(tmp_path):
    draw_pictures(tmp_path / "pictures", 12)
    return open_folder(tmp_path / "pictures", 64, kept=tmp_path / "kept")


def test_pairs_are_of_training_pictures_each_as_often_as_it_takes(images, victim, tmp_path):
    out = tmp_path / "pairs"
    num = 2 * len(images.paths["train"])
    make_folder_pairs(images, victim, out, PairSettings(num_pairs=num, steps=1, batch_size=2))
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    make_folder_pairs(images, victim, out, PairSettings(num_pairs=num, steps=1, batch_size=2))
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    made = load_pairs(out)
    squares = {image.tobytes() for image in images.images(images.paths["train"])}
    clean = [pixels.permute(1, 2, 0).numpy().tobytes() for pixels in made.clean]
    assert sorted(clean) == sorted(2 * list(squares))
    difference = (made.clean.int() - made.attacked.int()).abs().amax((1, 2, 3))
    assert torch.all((difference > 0) & (difference <= made.epsilon * 255))


def test_crops_that_nobody_attacked_come_from_training_pictures_alone(images):
    for split in ("validation", "test"):
        for path in images.paths[split]:
            path.unlink()
    crops = photo_crops(images, 40, 32, np.random.default_rng(0))
    assert crops.shape == (40, 3, 32, 32)
    assert len({crop.numpy().tobytes() for crop in crops}) > len(images.paths["train"])


def test_commands_say_that_there_are_too_few_pictures(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in images.paths["train"]:
        path.unlink()
    folder = str(images.root)
    with pytest.raises(LabError, match="train split"):
        pairs(PairsRun(data=folder, size_px=64))
    (tmp_path / "made").mkdir()
    one = np.zeros((1, 64, 64, 3), np.uint8)
    epsilon = np.zeros(1, np.float32)
    np.savez(tmp_path / "made" / "pairs-00000.npz", clean=one, attacked=one, epsilon=epsilon)
    for kind in PurifierKind:
        run = PurifierRun(
            kind=kind, data=folder, pairs=tmp_path / "made", victim="efficientnet-lite0"
        )
        with pytest.raises(LabError, match="train split"):
            purifier(run)
