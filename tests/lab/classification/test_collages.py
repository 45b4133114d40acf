"""Photographed things are laid on places; drawings and trifles are left out."""

import numpy as np
import pytest
from PIL import Image

from lab.classification.collages import PLACES_PACKAGE, SIDE_PX, THINGS_PACKAGE, build_collages
from lab.errors import LabError


def thing(side, *, colours, rng):
    pixels = np.zeros((side, side, 4), np.uint8)
    noise = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    pixels[..., :3] = noise if colours == "many" else (noise // 128) * 255
    pixels[side // 4 :, :, 3] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def packages(tmp_path):
    rng = np.random.default_rng(0)
    things, places = tmp_path / THINGS_PACKAGE, tmp_path / PLACES_PACKAGE
    things.mkdir()
    places.mkdir()
    thing(200, colours="many", rng=rng).save(things / "owl.png")
    thing(200, colours="few", rng=rng).save(things / "drawing.png")
    thing(100, colours="many", rng=rng).save(things / "small.png")
    Image.new("RGB", (800, 600), (10, 20, 30)).save(places / "night.png")
    return tmp_path


def test_a_collage_shows_the_thing_on_its_place(packages, tmp_path):
    out = tmp_path / "out"
    assert build_collages(packages, out) == 1
    (path,) = out.iterdir()
    assert path.name == "000-owl.png"
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (SIDE_PX, SIDE_PX, 3)
    is_place = (pixels == (10, 20, 30)).all(axis=2).mean()
    assert 0.2 < is_place < 0.6


def test_the_same_seed_gives_the_same_pictures(packages, tmp_path):
    for name in ("one", "two"):
        build_collages(packages, tmp_path / name, seed=3)
    one, two = (next((tmp_path / name).iterdir()).read_bytes() for name in ("one", "two"))
    assert one == two


def test_no_photographs_is_an_error(packages, tmp_path):
    (packages / THINGS_PACKAGE / "owl.png").unlink()
    with pytest.raises(LabError, match="no photographed things"):
        build_collages(packages, tmp_path / "out")
