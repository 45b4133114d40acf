"""Pictures of a folder: found, grouped, split, cut, and remembered."""

import json
import shutil

import imagehash
import numpy as np
import pytest
from PIL import Image

import codefend.lab.folders.folder
from codefend.lab.errors import LabError
from codefend.lab.folders.folder import open_folder, open_picture, square
from codefend.lab.world.layout import SPLITS
from codefend.lab.world.splits import group_alike
from tests.pictures_folder import draw_pictures


@pytest.fixture
def root(tmp_path):
    draw_pictures(tmp_path / "pictures", 30)
    return tmp_path / "pictures"


@pytest.fixture
def opened(tmp_path):
    """Opens a folder of this test."""

    def open_it(root, size_px=32):
        return open_folder(root, size_px, kept=tmp_path / "kept")

    return open_it


def split_of(images):
    return {path.name: split for split in SPLITS for path in images.paths[split]}


def test_every_picture_falls_to_one_split_and_every_split_gets_some(root, opened):
    images = opened(root)
    assert sum(len(images.paths[split]) for split in SPLITS) == len(split_of(images)) == 30
    assert len(images.paths["train"]) > len(images.paths["test"]) >= 2
    assert images.paths["validation"]


def test_a_new_name_moves_nothing(root, opened):
    before = split_of(opened(root))
    (root / "deep").mkdir()
    for path in list(root.glob("*.png")):
        path.rename(root / "deep" / f"new-{path.name}")
    after = split_of(opened(root))
    assert {name.removeprefix("new-"): split for name, split in after.items()} == before


def test_copies_in_other_sizes_and_formats_stay_together_and_train_keeps_its_own(root, opened):
    before = split_of(opened(root))
    for path in list(root.glob("*.png")):
        with Image.open(path) as image:
            small = image.resize((image.width * 2 // 3, image.height * 2 // 3))
            small.save(root / f"{path.stem}-small.jpg", quality=80)
    after = split_of(opened(root))
    assert len(after) == 60
    for name, split in before.items():
        assert after[name] == after[f"{name[:-4]}-small.jpg"]
        assert SPLITS.index(after[name]) <= SPLITS.index(split)


def test_who_is_near_to_a_member_is_of_the_group():
    hashes = ["0" * 16, "0" * 13 + "fff", "0" * 10 + "ffffff", "f" * 16]
    assert group_alike(hashes) == [0, 0, 0, 3]
    assert group_alike([hashes[0], hashes[2]]) == [0, 1]


def test_squares_are_the_middle_of_pictures(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = (10, 200, 30)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    for side in (20, 40, 64):
        cut = square(tmp_path / "wide.png", side)
        assert cut.shape == (side, side, 3)
        assert np.abs(cut[:, side // 4 : -side // 4].astype(int) - (10, 200, 30)).max() <= 2


def test_what_is_transparent_is_white_and_orientation_is_applied(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_picture(tmp_path / "clear.png", 8)).min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg", 100).size == (20, 40)


def test_photos_are_opened_when_wanted_and_no_larger_than_need_be(root, opened):
    Image.new("RGB", (1200, 600), "red").save(root / "large.png")
    photos = opened(root).photos
    assert {split: len(photos[split]) for split in SPLITS} == {
        split: len(paths) for split, paths in opened(root).paths.items()
    }
    every = [photo for split in SPLITS for photo in photos[split]]
    assert (3, 512, 1024) in {tuple(photo.shape) for photo in every}


def test_hashes_are_remembered_until_a_file_changes(root, opened, monkeypatch):
    before = split_of(opened(root))
    read = []
    phash = imagehash.phash
    monkeypatch.setattr(
        codefend.lab.folders.folder.imagehash,
        "phash",
        lambda image: read.append(1) or phash(image),
    )
    assert split_of(opened(root)) == before
    assert not read
    Image.new("RGB", (30, 30), "blue").save(root / "picture00.png")
    opened(root)
    assert len(read) == 1


def test_what_cannot_be_read_is_left_out_and_told(root, opened):
    (root / "broken.jpg").write_bytes(b"no picture")
    images = opened(root)
    assert images.unreadable == ["broken.jpg"]
    assert "broken.jpg" not in split_of(images)
    assert "1 could not be read" in images.describe()


def test_too_few_pictures_are_refused(tmp_path, opened):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match="no picture"):
        opened(tmp_path / "empty")
    Image.new("RGB", (30, 30)).save(tmp_path / "empty" / "one.png")
    images = opened(tmp_path / "empty")
    missing = [split for split in SPLITS if not images.paths[split]]
    assert len(missing) == 2
    for split in missing:
        with pytest.raises(LabError, match=split):
            images.first(split, 1)


SCENE = {"clean": "a/b.png", "caption": "a disc", "questions": [{"question": "?", "answer": "!"}]}


def test_a_scenes_file_names_the_pictures_and_what_is_true_of_them(tmp_path, opened):
    (tmp_path / "own" / "a").mkdir(parents=True)
    for name in ("b.png", "b-attacked.png"):
        Image.new("RGB", (30, 30)).save(tmp_path / "own" / "a" / name)
    (tmp_path / "own" / "scenes.json").write_text(json.dumps([SCENE]))
    images = opened(tmp_path / "own")
    assert list(split_of(images)) == ["b.png"]
    (truth,) = images.truths.values()
    assert truth.captions == ("a disc",)
    assert [(q.question, q.answer, q.kind) for q in truth.questions] == [("?", "!", "any")]
    shutil.rmtree(tmp_path / "own" / "a")
    with pytest.raises(LabError, match="not there"):
        opened(tmp_path / "own")


@pytest.mark.parametrize("text", ["{", "[{}]", '[{"clean": "x.png"}]', "[3]"])
def test_a_scenes_file_of_another_form_is_refused(tmp_path, opened, text):
    (tmp_path / "scenes.json").write_text(text)
    with pytest.raises(LabError, match="gallery's format"):
        opened(tmp_path)
