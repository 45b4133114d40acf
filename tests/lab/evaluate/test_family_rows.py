"""The attack suite in the evaluation: every variant makes uploads, once, and rows of its own."""

import dataclasses

import pytest

import codefend.lab.evaluate.outcomes
import codefend.lab.evaluate.uploads
from codefend.lab.attacks.registry import Family
from codefend.lab.baselines.compression import jpeg
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.errors import LabError
from codefend.lab.evaluate.context import EvalContext, ObliviousSettings, Surrogate, TierSettings
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.suite import VARIANTS, family_rows, labels_of, variants_named
from codefend.lab.evaluate.tables import suite_table

NUM_SCENES = 2


@pytest.fixture
def context(victim, scenes, tmp_path):
    return EvalContext(
        victim=victim,
        attacker=victim,
        scenes=scenes,
        conditions=[Condition("none", NO_DEFENCE), Condition("jpeg", jpeg(50))],
        oblivious=ObliviousSettings(steps=1, num_scenes_other=NUM_SCENES, seeds=1),
        tiers=TierSettings(
            num_scenes={}, num_scenes_diffpure=1, num_scenes_curve=1, num_scenes_families=NUM_SCENES
        ),
        surrogate=Surrogate("none", NO_DEFENCE.apply),
        out=tmp_path,
        others=[victim],
    )


@pytest.mark.slow
def test_every_variant_has_rows_and_is_made_once(context, monkeypatch):
    rows = family_rows(context, VARIANTS)
    attacks = {row.attack for row in rows}
    assert attacks == {variant.label for variant in VARIANTS} | {"joint-words"}
    asked = {(row.attack, row.defence): row for row in rows if row.metric == "accuracy"}
    assert len(asked) == 2 * len(attacks)
    assert {row.tier for row in rows} == {"t0"}
    assert {row.family for row in rows if row.held_out} >= set(Family) - {
        Family.LANGUAGE_LOSS,
        Family.ENCODER_FEATURES,
        Family.RANDOM_NOISE,
        Family.SCALING,  # of large images: `codefend-lab large` asks about it
    }

    def refuse(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(codefend.lab.evaluate.uploads, "attack_uploads", refuse)
    assert family_rows(context, VARIANTS) == rows


def test_scenes_that_were_written_on_are_not_asked_for_their_sign(context):
    first = context.scenes[0].questions[0]
    sign = dataclasses.replace(first, question="what does the sign say?", kind="sign")
    signed = [
        dataclasses.replace(scene, questions=(*scene.questions, sign)) for scene in context.scenes
    ]
    rows = family_rows(
        dataclasses.replace(context, scenes=signed),
        variants_named(["typographic", "low_frequency"]),
    )
    asked = {row.attack for row in rows if row.metric == "accuracy:sign"}
    assert asked == {"low_frequency"}


def test_captions_that_name_what_is_not_there_are_counted(context, monkeypatch):
    def caption(victim, images, prompts, **options):
        return [["a guitar"] * len(texts) for texts in prompts]

    monkeypatch.setattr(codefend.lab.evaluate.outcomes, "generate", caption)
    rows = family_rows(context, variants_named(["typographic", "low_frequency"]))
    wrong = [row for row in rows if row.metric == "wrong_word_rate"]
    assert {(row.attack, row.task, row.value) for row in wrong} == {("typographic", "caption", 1.0)}
    assert {row.defence for row in wrong} == {"none", "jpeg"}


def test_the_joint_attack_is_asked_in_its_own_words(context, monkeypatch):
    heard = []
    generate = codefend.lab.evaluate.outcomes.generate

    def listen(victim, images, prompts, **options):
        heard.extend(text for texts in prompts for text in texts)
        return generate(victim, images, prompts, **options)

    monkeypatch.setattr(codefend.lab.evaluate.outcomes, "generate", listen)
    family_rows(
        dataclasses.replace(context, conditions=context.conditions[:1]), variants_named(["joint"])
    )
    written = {q.question for scene in context.scenes for q in scene.questions}
    assert any(text not in written and "describe" not in text for text in heard)


def test_the_suite_is_one_table(context):
    variants = variants_named(["patch", "pgd-encoder-towards"])
    table = suite_table(family_rows(context, variants), labels_of(variants))
    cells = [line.split(" | ") for line in table.splitlines() if line.startswith("| p")]
    held_out = {line[0].removeprefix("| "): line[2] for line in cells}
    assert held_out == {"patch": "yes", "pgd-encoder-towards": "no"}


def test_an_unknown_variant_is_refused():
    assert variants_named(["none"]) == ()
    with pytest.raises(LabError, match="low_frequency"):
        variants_named(["patch", "nothing"])
