"""The fixed test set: what is written is what is hashed, and whatever differs is named."""

import json
import re

import pytest
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.world.test_set import HASHES, NUM_SCENES, check_test_set, write_test_set


@pytest.fixture
def written(world, tmp_path):
    write_test_set(world, tmp_path / "set", 3)
    return tmp_path / "set"


def problems(folder, hashes):
    return list(check_test_set(folder, hashes))


def test_it_is_written_twice_alike(written, world, tmp_path):
    write_test_set(world, tmp_path / "again", 3)
    assert problems(written, tmp_path / "again" / HASHES.name) == []


def test_another_pixel_another_truth_and_a_missing_picture_are_named(written):
    hashes = written / HASHES.name
    with Image.open(written / "images/001.png") as image:
        changed = image.convert("RGB")
    changed.putpixel((5, 7), tuple(255 - value for value in changed.getpixel((5, 7))))
    changed.save(written / "images/001.png")
    (written / "images/002.png").unlink()
    document = json.loads((written / "scenes.json").read_text())
    document["scenes"][0]["questions"][0]["answer"] += "s"
    (written / "scenes.json").write_text(json.dumps(document))
    found = problems(written, hashes)
    assert [re.match(r"images/\d+\.png", problem)[0] for problem in found] == [
        f"images/00{number}.png" for number in range(3)
    ]
    assert "cannot be read" in found[2]


def test_another_number_of_scenes_and_another_version_are_said(written):
    assert "3 scenes, not 512" in problems(written, HASHES)[0]
    document = json.loads((written / "scenes.json").read_text())
    (written / "scenes.json").write_text(json.dumps(document | {"version": "0"}))
    assert problems(written, HASHES) == ["it is of version 0, and this is version 1"]


def test_a_folder_without_one_says_how_to_make_it(tmp_path):
    with pytest.raises(LabError, match="codefend-lab data test-set"):
        problems(tmp_path, HASHES)


def test_the_hashes_that_are_tracked_are_of_all_scenes():
    lines = HASHES.read_text().split()
    assert len(set(lines)) == NUM_SCENES
    assert all(re.fullmatch(r"[0-9a-f]{16}", line) for line in lines)
