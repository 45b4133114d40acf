"""Photographed things are laid on places; drawings and trifles are left out."""

import numpy as np
import pytest
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.world.collages import (
    PLACES_PACKAGE,
    SIDE_PX,
    THINGS_PACKAGE,
    build_collages,
    thing_of,
)


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
    assert path.name == "owl--0.png"
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (SIDE_PX, SIDE_PX, 3)
    is_place = (pixels == (10, 20, 30)).all(axis=2).mean()
    assert 0.2 < is_place < 0.9


def test_several_views_show_one_thing_on_several_places(packages, tmp_path):
    rng = np.random.default_rng(1)
    thing(200, colours="many", rng=rng).save(packages / THINGS_PACKAGE / "owl-2_mirror.png")
    (packages / THINGS_PACKAGE / "cartoon").mkdir()
    thing(200, colours="many", rng=rng).save(packages / THINGS_PACKAGE / "cartoon" / "imp.png")
    Image.new("RGB", (800, 600), (200, 100, 0)).save(packages / PLACES_PACKAGE / "noon.png")
    out = tmp_path / "out"
    assert build_collages(packages, out, num_views=4) == 4
    pictures = sorted(out.iterdir())
    assert {thing_of(picture.stem) for picture in pictures} == {"owl"}
    seen = [np.asarray(Image.open(picture)) for picture in pictures]
    shares = [
        [(pixels == place).all(axis=2).mean() for pixels in seen]
        for place in ((10, 20, 30), (200, 100, 0))
    ]
    assert all(max(pair) > 0.05 for pair in zip(*shares, strict=True))
    assert all(min(pair) == 0 for pair in zip(*shares, strict=True))
    assert len({round(sum(pair), 3) for pair in zip(*shares, strict=True)}) == 4


def test_the_same_seed_gives_the_same_pictures(packages, tmp_path):
    for name in ("one", "two"):
        build_collages(packages, tmp_path / name, seed=3)
    one, two = (next((tmp_path / name).iterdir()).read_bytes() for name in ("one", "two"))
    assert one == two


def test_no_photographs_is_an_error(packages, tmp_path):
    (packages / THINGS_PACKAGE / "owl.png").unlink()
    with pytest.raises(LabError, match="no photographed things"):
        build_collages(packages, tmp_path / "out")
