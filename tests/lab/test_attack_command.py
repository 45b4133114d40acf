"""``codefend-lab attack`` on a folder and on a gallery, with a tiny victim from disk."""

import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from codefend.lab.attack_command import register


@pytest.fixture(scope="module")
def saved(victim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("victim")
    victim.model.save_pretrained(folder)
    victim.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def photos_folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("one", "two"):
        pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def run(*arguments):
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def moved(before, after):
    a, b = (np.asarray(Image.open(path)).astype(int) for path in (before, after))
    return np.abs(a - b).max()


def test_folder(saved, photos_folder, tmp_path):
    options = ("--victim", saved, "--steps", 2, "--epsilon", 4, "--attack", "pgd")
    result = run(photos_folder, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    for name in ("one.png", "two.png"):
        assert 1 <= moved(photos_folder / name, tmp_path / "out" / name) <= 4
    stamp = (tmp_path / "out" / "one.png").stat().st_mtime_ns
    assert run(photos_folder, tmp_path / "out", *options).exit_code == 0
    assert (tmp_path / "out" / "one.png").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("options", [("--target", "a cat"), ("--goal", "encoder"), ()])
def test_gallery(saved, photos_folder, tmp_path, options):
    entry = {
        "clean": "photos/one.png",
        "caption": "a red car",
        "questions": [{"question": "what?", "answer": "car"}],
    }
    (tmp_path / "scenes.json").write_text(json.dumps([entry]))
    result = run(
        tmp_path / "scenes.json", tmp_path / "out", "--victim", saved, "--steps", 1, *options
    )
    assert result.exit_code == 0, result.output
    assert 1 <= moved(photos_folder / "one.png", tmp_path / "out" / "one.png") <= 8


def test_attacks_without_a_radius(saved, photos_folder, tmp_path):
    options = ("--victim", saved, "--steps", 1, "--attack", "typographic")
    assert run(photos_folder, tmp_path / "out", *options).exit_code == 0
    assert moved(photos_folder / "one.png", tmp_path / "out" / "one.png") > 64


def test_nothing_to_attack_is_the_users_error(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images" in str(run(tmp_path / "empty", tmp_path / "out").exception)
    (tmp_path / "broken.json").write_text("[{}]")
    assert "not a gallery" in str(run(tmp_path / "broken.json", tmp_path / "out").exception)
