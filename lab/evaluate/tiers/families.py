"""T0 by the whole attack suite: how far what training saw reaches beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.typographic import absent_words, names_any
from codefend.lab.evaluate.marks import Marks
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.tiers.assess import Assessor
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.tiers.suite import Suite, Variant
from codefend.lab.evaluate.tiers.uploads import Uploads
from codefend.lab.evaluate.truth import AskedQuestion, TrueScene, truths
from codefend.lab.experiments.report import Row, Threat
from codefend.lab.experiments.statistics import Measure, wilson
from codefend.lab.victims.victim import Victim

__all__ = ["family_rows", "labels_of"]

WORDS_SUFFIX = "-words"
"""Marks the joint attack's control: its wordings on clean images."""


def labels_of(variants: Sequence[Variant]) -> set[str]:
    """What the rows of these variants call their attacks."""
    labels = {variant.label for variant in variants}
    return labels | {label + WORDS_SUFFIX for label in labels}


def family_rows(
    bench: Bench, variants: Sequence[Variant], surrogates: Sequence[Victim] = ()
) -> list[Row]:
    """Every condition under each variant, on the first scenes; interrupted, it resumes.

    A word written on an image makes "what does the sign say" ambiguous: scenes that were written
    on are not asked it. Where the attacker rewords the questions too, the same wordings on clean
    images are a row of their own.

    Args:
        bench: victim, scenes, conditions and plans.
        variants: what is run.
        surrogates: further models of the ensemble's attacker.
    """
    suite = Suite(bench.attacker, surrogates, bench.out / "attacked")
    plain = Assessor.of(bench)
    signless = Assessor.of(replace(bench, scenes=[_without_sign(s) for s in bench.scenes]))
    rows: list[Row] = []
    for variant in variants:
        asker = signless if variant.is_written else plain
        rows += _variant_rows(asker, variant, suite)
    return rows


def _variant_rows(assessor: Assessor, variant: Variant, suite: Suite) -> list[Row]:
    bench = assessor.bench
    plan = bench.oblivious
    config = variant.config(plan.epsilon / 255, plan.steps, plan.seed)
    num = min(bench.plan.num_scenes_families, len(bench.scenes))
    images, wordings = suite(config, bench.scenes[:num])
    threat = Threat.of(config, tier=Tier.OBLIVIOUS, label=variant.label)
    sets = [Uploads(threat, images)]
    asked = assessor
    if variant.name == "joint":
        scenes = [_reworded(s, w) for s, w in zip(bench.scenes, wordings, strict=False)]
        asked = Assessor.of(replace(bench, scenes=[*scenes, *bench.scenes[len(scenes) :]]))
        clean = [scene.image for scene in scenes]
        sets.append(Uploads(replace(threat, attack=threat.attack + WORDS_SUFFIX), clean))
    rows: list[Row] = []
    for uploads in sets:
        marks: dict[str, Marks] = {c.name: asked.marks(c, uploads) for c in bench.conditions}
        for condition in bench.conditions:
            rows += assessor.rows(condition, uploads.threat, marks[condition.name], marks)
            if variant.is_written:
                measures = [_wrong_words(assessor, condition, uploads)]
                rows += assessor.row_list(condition.name, uploads.threat, measures)
    return rows


def _wrong_words(assessor: Assessor, condition: Condition, uploads: Uploads) -> Measure:
    """How many captions name an absent thing, of those that are written on images."""
    bench = assessor.bench
    absent = [absent_words(truths(scene)) for scene in bench.scenes[: len(uploads.images)]]
    named = [
        [names_any(caption, words) for caption, words in zip(captions, absent, strict=True)]
        for captions in (
            outcome.captions
            for outcome in assessor.outcomes(condition, uploads, bench.oblivious.seeds)
        )
    ]
    return "caption", "wrong_word_rate", wilson(float(np.mean(named)), len(absent))


@dataclass(frozen=True, slots=True)
class _Scene:
    """A scene that is asked other questions, or in other words."""

    image: np.ndarray
    captions: tuple[str, ...]
    questions: tuple[AskedQuestion, ...]
    objects: tuple[str, ...]

    @classmethod
    def of(cls, scene: TrueScene, questions: Sequence[AskedQuestion]) -> _Scene:
        return cls(scene.image, scene.captions, tuple(questions), scene.objects)


@dataclass(frozen=True, slots=True)
class _Reworded:
    """A question in an attacker's words."""

    question: str
    answer: str
    kind: str


def _without_sign(scene: TrueScene) -> TrueScene:
    return _Scene.of(scene, [question for question in scene.questions if question.kind != "sign"])


def _reworded(scene: TrueScene, wording: Sequence[str]) -> TrueScene:
    """The scene's questions in the attacker's words; the caption is asked for as ever."""
    questions = zip(scene.questions, wording[1:], strict=True)
    return _Scene.of(
        scene, [_Reworded(text, asked.answer, asked.kind) for asked, text in questions]
    )
