"""What is right of a user's pictures, and the datasets that may stand for a folder."""

import io
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

import codefend.lab.folders.pseudo_labels
from codefend.lab.errors import LabError
from codefend.lab.folders.folder import open_folder
from codefend.lab.folders.pseudo_labels import GENERIC_QUESTIONS, PseudoLabeler
from codefend.lab.folders.source import fetch_dataset, open_data
from codefend.lab.victims.dialogue import CAPTION_REQUEST
from codefend.lab.victims.generate import generate
from tests.pictures_folder import draw_pictures


@pytest.fixture
def folder(tmp_path):
    draw_pictures(tmp_path / "pictures", 4)
    return open_folder(tmp_path / "pictures", 64, kept=tmp_path / "kept")


@pytest.fixture
def paths(folder):
    return [path for share in folder.paths.values() for path in share]


def test_the_victims_own_answers_are_the_truth(folder, paths, victim):
    images = folder.images(paths)
    told = PseudoLabeler(folder, victim)(paths, images)
    asked = [[CAPTION_REQUEST]] * len(images)
    captions = generate(victim, images, asked, max_new_tokens=48)
    assert [truth.captions for truth in told] == [tuple(said) for said in captions]
    questions = [[text for text, _ in GENERIC_QUESTIONS]] * len(images)
    answers = generate(victim, images, questions, max_new_tokens=8)
    for truth, said in zip(told, answers, strict=True):
        assert {q.question: q.answer for q in truth.questions}.items() <= dict(
            zip(questions[0], said, strict=True)
        ).items()


def test_nothing_is_asked_twice_and_silence_is_no_truth(folder, paths, victim, monkeypatch):
    asked = []

    def answer(_, images, prompts, **__):
        asked.extend(prompts)
        return [["" if "animal" in text else "Yes." for text in texts] for texts in prompts]

    monkeypatch.setattr(codefend.lab.folders.pseudo_labels, "generate", answer)
    labeler = PseudoLabeler(folder, victim)
    images = folder.images(paths)
    first = labeler(paths[:2], images[:2])
    assert [len(truth.questions) for truth in first] == [len(GENERIC_QUESTIONS) - 1] * 2
    labeler(paths, images)
    assert len(asked) == 2 * len(paths)


def test_what_the_folder_says_is_not_asked(tmp_path, victim, monkeypatch):
    draw_pictures(tmp_path / "own", 1)
    scene = {"clean": "picture00.png", "caption": "a disc", "questions": []}
    (tmp_path / "own" / "scenes.json").write_text(json.dumps([scene]))
    folder = open_folder(tmp_path / "own", 64, kept=tmp_path / "kept")
    monkeypatch.setattr(codefend.lab.folders.pseudo_labels, "generate", None)
    (truth,) = PseudoLabeler(folder, victim)(list(folder.truths), [np.zeros((64, 64, 3), np.uint8)])
    assert truth.captions == ("a disc",)


class FakeFeature:
    def __init__(self, decode=True):
        self.decode = decode


class FakeRows(list):
    """A dataset of two columns, as ``datasets`` streams it."""

    def __init__(self):
        self.features = {"label": object(), "photo": FakeFeature()}

    def cast_column(self, name, feature):
        assert name == "photo"
        assert not feature.decode
        return self


def rows(num):
    found = FakeRows()
    for number in range(num):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
        found.append({"label": number, "photo": {"bytes": file.getvalue(), "path": None}})
    return found


def test_a_dataset_becomes_a_folder_once(tmp_path, monkeypatch):
    loaded = []

    def load_dataset(source, **_):
        loaded.append(source)
        return rows(3)

    datasets = types.SimpleNamespace(load_dataset=load_dataset, Image=FakeFeature)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    for _ in range(2):
        folder = fetch_dataset("someone/photos", tmp_path)
    assert loaded == ["someone/photos"]
    assert sorted(path.name for path in folder.glob("*.png")) == [f"0000{n}.png" for n in range(3)]
    reds = [np.asarray(Image.open(path))[0, 0, 0] for path in sorted(folder.glob("*.png"))]
    assert reds == [0, 1, 2]


def test_a_dataset_without_pictures_is_refused(tmp_path, monkeypatch):
    rows_of_text = types.SimpleNamespace(features={"text": object()})
    datasets = types.SimpleNamespace(load_dataset=lambda *_, **__: rows_of_text, Image=FakeFeature)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    with pytest.raises(LabError, match="no column of images"):
        fetch_dataset("someone/texts", tmp_path)


def test_without_the_package_an_id_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError, match="pip install datasets") as caught:
        open_data("someone/photos", 64)
    assert "\n" not in str(caught.value)
