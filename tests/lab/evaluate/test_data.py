"""What an evaluation of a user's own pictures is about, and that it stays so when resumed."""

import pytest

import codefend.lab.folders.pseudo_labels
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.errors import LabError
from codefend.lab.evaluate.context import EvalContext, ObliviousSettings, Surrogate, TierSettings
from codefend.lab.evaluate.data import folder_material
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.tiers import oblivious_rows
from codefend.lab.folders.folder import open_folder
from codefend.lab.folders.pseudo_labels import GENERIC_QUESTIONS
from tests.pictures_folder import draw_pictures


@pytest.fixture
def images(tmp_path):
    draw_pictures(tmp_path / "pictures", 30)
    return open_folder(tmp_path / "pictures", 64, kept=tmp_path / "kept")


def material(images, victim, out, split="test", num=3, num_validation=2):
    return folder_material(images, victim, split, num=num, num_validation=num_validation, out=out)


def test_tested_pictures_and_those_for_settings_are_others(images, victim, tmp_path):
    for split in ("test", "validation"):
        found = material(images, victim, tmp_path, split)
        tested = [scene.image.tobytes() for scene in found.tested]
        assert tested
        assert set(tested).isdisjoint(scene.image.tobytes() for scene in found.validation)
        assert set(tested) <= {i.tobytes() for i in images.images(images.paths[split])}
    with pytest.raises(LabError, match="num-validation"):
        material(images, victim, tmp_path, "validation", num_validation=100)


def test_what_the_victim_said_is_kept(images, victim, tmp_path, monkeypatch):
    before = material(images, victim, tmp_path)
    monkeypatch.setattr(codefend.lab.folders.pseudo_labels, "generate", None)
    after = material(images, victim, tmp_path)
    assert [s.captions for s in after.tested] == [s.captions for s in before.tested]
    assert [s.questions for s in after.tested] == [s.questions for s in before.tested]
    asked = {q.question for scene in after.tested for q in scene.questions}
    assert asked <= {text for text, _ in GENERIC_QUESTIONS}
    assert "agreement" in after.note


def test_the_undefended_model_agrees_with_itself(images, victim, tmp_path):
    tested = material(images, victim, tmp_path).tested
    context = EvalContext(
        victim=victim,
        attacker=victim,
        scenes=tested,
        conditions=[Condition("none", NO_DEFENCE)],
        oblivious=ObliviousSettings(seeds=1),
        tiers=TierSettings(),
        surrogate=Surrogate("none", NO_DEFENCE.apply),
        out=tmp_path,
    )
    rows = oblivious_rows(context, is_attacked=False)
    figures = {row.metric: row.value for row in rows}
    assert figures["accuracy"] == 1
    assert figures["cider"] > 0
    assert "objects_named" not in figures
