"""Public test sets, read from tiny files of their official layout."""

import json

import numpy as np
import pytest
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.evaluate.data import correctness, public_material
from codefend.lab.folders.public import is_public, open_public, padded
from codefend.lab.folders.source import open_data
from tests.public_sets import NAMES, WRITERS, write_coco, write_textvqa, write_vqav2


def opened(name, tmp_path):
    return open_public(f"{name}:{WRITERS[name](tmp_path / name)}")


@pytest.mark.parametrize("karpathy", [False, True])
def test_coco_has_all_captions_of_a_picture(tmp_path, karpathy):
    found = open_public(f"coco:{write_coco(tmp_path, karpathy=karpathy)}")
    assert len(found.examples) == 8 - karpathy  # of Karpathy's file the test split alone
    by_picture = {one.picture.name: one for one in found.examples}
    one = by_picture["COCO_val2014_000000000433.jpg"]
    assert one.captions[:2] == (
        ("A dog on a table, seen now.", "A dog on a table, seen then.")
        if karpathy
        else ("A dog on a table, seen far.", "A dog on a table, seen soon.")
    )
    assert len(one.captions) == 5
    assert one.questions == ()
    assert "short caption" in one.request
    assert all(example.picture.is_file() for example in found.examples)


def test_vqav2_has_one_example_a_question_with_ten_answers(tmp_path):
    found = open_public(f"vqav2:{write_vqav2(tmp_path)}")
    assert len(found.examples) == 16
    asked = {(one.picture.name, q.kind): q for one in found.examples for q in one.questions}
    question = asked["COCO_val2014_000000000433.jpg", "other"]
    assert question.question.startswith("What is on the table?\nAnswer the question using")
    assert (question.answer, len(question.answers)) == ("dog", 10)
    assert correctness("a Dog.", question) == 1.0
    assert correctness("thing", question) == pytest.approx(0.3)  # one of ten: 9 subsets of 1/3
    assert asked["COCO_val2014_000000000042.jpg", "yes/no"].answer == "yes"


def test_textvqa_leads_away_from_what_most_people_read(tmp_path):
    found = open_public(f"textvqa:{write_textvqa(tmp_path)}")
    one = next(e for e in found.examples if e.picture.name == "000000000000002a.jpg")
    (question,) = one.questions
    assert question.answer == "cats"
    assert correctness("cat", question) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert one.picture.is_file()


def test_examples_are_drawn_as_numpys_legacy_generator_draws_them(tmp_path):
    found = open_public(f"coco:{write_coco(tmp_path)}")
    np.random.seed(42)
    drawn = np.random.choice(8, 3, replace=False)  # the call of RobustVLM's own evaluation
    names = [one.captions[0].split()[1] for one in found.examples[:3]]
    assert names == [NAMES[index] for index in drawn]


def test_no_picture_is_tested_that_settings_are_chosen_on(tmp_path):
    found = opened("vqav2", tmp_path)
    material = public_material(found, "test", 32, num=5, num_validation=4)
    assert (len(material.tested), len(material.validation)) == (5, 4)
    tested = {scene.image.tobytes() for scene in material.tested}
    assert tested.isdisjoint(scene.image.tobytes() for scene in material.validation)
    held = public_material(found, "validation", 32, num=3, num_validation=2)
    assert [s.questions for s in held.validation] == [s.questions for s in material.validation[:2]]
    assert tested.isdisjoint(scene.image.tobytes() for scene in held.validation)
    for what in ("vqav2", "16 questions", "seed 42", "VQA accuracy", "5 tested"):
        assert what in material.note
    with pytest.raises(LabError, match="16 examples: too few"):
        public_material(found, "test", 32, num=16, num_validation=4)
    with pytest.raises(LabError, match="nothing is trained on it"):
        public_material(found, "train", 32, num=1, num_validation=1)


def test_a_picture_lies_whole_on_a_square(tmp_path):
    Image.new("RGB", (80, 40), "white").save(tmp_path / "wide.png")
    square = padded(tmp_path / "wide.png", 32)
    assert square.shape == (32, 32, 3)
    assert (square[16] == 255).all()
    assert (square[2] == (122, 116, 104)).all()


MISSING = [
    ("coco", "annotations/captions_val2014.json", "captions_val2014.json"),
    ("coco", "val2014", "val2014/"),
    ("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json", "v2_OpenEnded"),
    ("vqav2", "v2_mscoco_val2014_annotations.json", "v2_mscoco_val2014_annotations.json"),
    ("vqav2", "val2014", "val2014/"),
    ("textvqa", "TextVQA_0.5.1_val.json", "TextVQA_0.5.1_val.json"),
    ("textvqa", "train_images", "train_images/"),
]


@pytest.mark.parametrize(("name", "part", "said"), MISSING)
def test_what_is_missing_is_named_with_the_layout(tmp_path, name, part, said):
    root = WRITERS[name](tmp_path / name)
    (root / part).rename(tmp_path / "elsewhere")
    with pytest.raises(LabError, match=f"lacks .*{said}.*; the layout of {name} is"):
        open_public(f"{name}:{root}")


@pytest.mark.parametrize(("name", "file"), [(m[0], m[1]) for m in MISSING if "json" in m[1]])
@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": [{}], "data": [{}]}'])
def test_other_files_are_refused(tmp_path, name, file, text):
    root = WRITERS[name](tmp_path / name)
    (root / file).write_text(text)
    with pytest.raises(LabError, match=f"is not in the format of {name}"):
        open_public(f"{name}:{root}")


def test_a_question_that_nobody_answered_is_refused(tmp_path):
    file = write_textvqa(tmp_path) / "TextVQA_0.5.1_val.json"
    told = json.loads(file.read_text())
    told["data"][0]["answers"] = []
    file.write_text(json.dumps(told))
    with pytest.raises(LabError, match="not in the format of textvqa"):
        open_public(f"textvqa:{tmp_path}")
    file.write_text(json.dumps(told | {"data": []}))
    with pytest.raises(LabError, match="holds no example"):
        open_public(f"textvqa:{tmp_path}")


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    found = opened("coco", tmp_path)
    found.examples[0].picture.write_bytes(b"no picture")
    with pytest.raises(LabError, match="is no picture"):
        public_material(found, "test", 32, num=1, num_validation=1)
    found.examples[0].picture.unlink()
    with pytest.raises(LabError, match="val2014/ must hold"):
        public_material(found, "test", 32, num=1, num_validation=1)


def test_nothing_is_trained_on_a_test_set():
    assert is_public("coco:data")
    assert not is_public("coco")
    assert not is_public("someone/coco:data")
    with pytest.raises(LabError, match="only `evaluate` takes"):
        open_data("coco:data", 64)
