import os
from pathlib import Path

import pytest
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.world.assets import build_world_file, fetch_packages
from codefend.lab.world.compose import World


def test_too_few_photos_are_refused(tmp_path: Path, world_file: Path) -> None:
    sprites = world_file.parent / "sprites"
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (600, 600)).save(tmp_path / "photos" / "only.png")
    with pytest.raises(LabError, match="1 different photos"):
        build_world_file(tmp_path / "photos", sprites, tmp_path / "out.npz")


def test_a_missing_sprite_is_named(tmp_path: Path, world_file: Path) -> None:
    with pytest.raises(LabError, match="1f436"):
        build_world_file(world_file.parent / "photos", tmp_path, tmp_path / "out.npz")


@pytest.mark.slow
def test_the_same_photo_in_two_sizes_is_kept_once(
    world: World, world_file: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in (world_file.parent / "photos").iterdir():
        with Image.open(path) as image:
            image.save(photos / path.name)
            image.resize((640, 480)).save(photos / f"small-{path.name}")
    build_world_file(photos, world_file.parent / "sprites", tmp_path / "out.npz")
    again = World(tmp_path / "out.npz")
    assert sum(map(len, again.photos.values())) == sum(map(len, world.photos.values()))


def test_a_missing_world_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="codefend-lab data build"):
        World(tmp_path / "nothing.npz")


CLIENTS = {
    "apt-get": 'touch "$2_1.0_all.deb"',
    "dpkg-deb": 'test -f "$2" && mkdir "$3" && touch "$3/photo.png"',
    "npm": "touch sprite.webp ../outside && tar -czPf sprites.tgz sprite.webp ../outside",
}


@pytest.mark.slow
def test_packages_are_unpacked_into_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in CLIENTS.items():
        client = tmp_path / "bin" / name
        client.parent.mkdir(exist_ok=True)
        client.write_text(f"#!/bin/sh\nset -e\n{script}\n")
        client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    photos, sprites = fetch_packages(Path("work/packages"))
    assert len(list(photos.rglob("photo.png"))) == 5
    assert [path.name for path in sprites.rglob("*")] == ["sprite.webp"]
    assert not list((tmp_path / "work").rglob("*.deb"))
