"""Scores and figures worked out by hand from outcomes."""

from dataclasses import replace

import pytest

from codefend.lab.errors import LabError
from codefend.lab.evaluate.data import target_captions
from codefend.lab.evaluate.outcomes import Responses
from codefend.lab.evaluate.scores import (
    QuestionPrior,
    lead,
    measure_alone,
    measure_attacked,
    measure_beside_clean,
    prior_measures,
    score,
)

CAPTIONS = ["a cat at the top", "a car", "nothing", "an apple"]


def outcome(answers, captions=CAPTIONS):
    return Responses(captions=captions, answers=answers, psnr_db=[], ssim=[])


RIGHT = outcome([["a cat", "Yes."], ["car", "yes"], ["cat", "yes"], ["apple", "yes"]])
HALF = outcome([["dog", "yes"], ["dog", "yes"], ["dog", "yes"], ["I cannot tell", "yes"]])


def scored(scenes, *outcomes, targets=None):
    return score(outcomes, scenes, [scene.captions for scene in scenes], targets)


def figures(measures):
    return {(task, metric): figure for task, metric, figure in measures}


def test_rates(scenes):
    found = figures(measure_alone(scored(scenes, HALF)))
    assert found["vqa", "accuracy"].value == 0.5
    assert found["vqa", "accuracy"].n == 8
    assert found["vqa", "accuracy:what"].value == 0.0
    assert found["vqa", "accuracy:exists"].value == 1.0
    assert found["vqa", "over_refusal"].value == 1 / 8
    assert found["caption", "objects_named"].value == 0.75
    assert found["caption", "cider"].n == 4
    assert (None, "psnr_db") not in found


def test_seeds_are_averaged_and_add_no_items(scenes):
    found = figures(measure_alone(scored(scenes, RIGHT, HALF)))["vqa", "accuracy"]
    assert found.value == 0.75
    assert found.n == 8


def test_untargeted_success_counts_what_was_right(scenes):
    attacked = outcome([["dog", "no"], ["car", "yes"], ["cat", "yes"], ["pear", "yes"]])
    found = figures(measure_attacked(scored(scenes, attacked), scored(scenes, HALF)))
    assert found["vqa", "untargeted_success"].value == 1 / 4
    assert found["vqa", "untargeted_success"].n == 4


def test_beside_clean_and_lead(scenes):
    right, half = scored(scenes, RIGHT), scored(scenes, HALF)
    found = figures(measure_beside_clean(half, right))
    assert found["vqa", "accuracy_of_clean"].value == 0.5
    assert found["caption", "cider_of_clean"].value == pytest.approx(1.0)
    assert lead(right, half).value == 0.5
    assert lead(half, right).value == -0.5


def test_targeted_success_is_an_exact_match(scenes):
    targets = ["The cat at the top!", "a car at the top", "nothing", "a cat"]
    said = outcome([[]] * 4)
    found = figures(measure_alone(scored(scenes, said, targets=targets)))
    assert found["caption", "targeted_success"].value == 0.5
    assert ("vqa", "accuracy") not in found


def test_first_scenes(scenes):
    assert scored(scenes, RIGHT).first(2).right.shape == (1, 4)


def test_targets_share_no_object(scenes):
    targets = target_captions(scenes)
    assert all(s.objects[0] not in t for s, t in zip(scenes, targets, strict=True))
    assert target_captions(scenes) == targets
    with pytest.raises(LabError, match="an object with every other"):
        target_captions([scenes[0], scenes[2]])


def test_where_no_objects_are_known_none_are_counted_and_targets_are_other_texts(scenes):
    told = [replace(scene, objects=()) for scene in scenes]
    found = figures(measure_alone(scored(told, HALF, HALF)))
    assert ("caption", "objects_named") not in found
    assert found["caption", "cider"].n == 4
    both = scored(told, HALF)
    assert ("caption", "untargeted_success") not in figures(
        measure_attacked(both, scored(told, RIGHT))
    )
    targets = target_captions(told)
    assert all(s.captions[0] != t for s, t in zip(told, targets, strict=True))
    with pytest.raises(LabError, match="caption or an object"):
        target_captions([told[0], told[2]])


def test_prior_is_the_most_frequent_answer(scenes):
    prior = QuestionPrior([q for scene in scenes for q in scene.questions])
    found = figures(prior_measures(prior, scenes))
    assert found["vqa", "question_only_accuracy:what"].value == 0.5
    assert found["vqa", "question_only_accuracy"].value == 0.75
    assert QuestionPrior([]).answer(scenes[0].questions[0]) == ""
