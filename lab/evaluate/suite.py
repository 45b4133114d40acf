"""T0 by the whole attack suite: how far what training saw reaches beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import ATTACKS, AttackConfig, Family, Goal
from codefend.lab.attacks.typographic import absent_words, names_any
from codefend.lab.errors import LabError
from codefend.lab.evaluate.assess import Assessor
from codefend.lab.evaluate.context import EvalContext, ObliviousSettings
from codefend.lab.evaluate.data import AskedQuestion, TrueScene, truths
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.uploads import Attacker, Uploader, Uploads
from codefend.lab.experiments.report import Row, Threat
from codefend.lab.experiments.statistics import Measure, wilson

__all__ = [
    "VARIANTS",
    "Variant",
    "family_rows",
    "labels_of",
    "reworded",
    "suite_uploads",
    "variants_named",
    "without_sign",
]

WORDS_SUFFIX = "-words"
"""Marks the joint attack's control: its wordings on clean images."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One attack of the suite, as it is run here.

    Attributes:
        name: of the attack.
        goal: what it moves.
        is_targeted: whether it heads for another scene's image.
    """

    name: str
    goal: Goal = "margin"
    is_targeted: bool = False

    @property
    def is_written(self) -> bool:
        """Whether it writes words on images."""
        return ATTACKS[self.name].family is Family.TYPOGRAPHIC

    @property
    def label(self) -> str:
        """What the setting `families` calls it."""
        towards = "-towards" if self.is_targeted else ""
        return f"{self.name}-{self.goal}{towards}" if self.goal != "margin" else self.name

    def config(self, settings: ObliviousSettings) -> AttackConfig:
        """The attack; where no l-infinity ball bounds it, by what its own class states."""
        return AttackConfig(
            name=self.name,
            epsilon=settings.epsilon / 255 if ATTACKS[self.name].is_ball else 1.0,
            steps=settings.steps,
            goal=self.goal,
            targeted=self.is_targeted,
            seed=settings.seed,
        )


VARIANTS = (
    Variant("pgd", "encoder"),
    Variant("pgd", "encoder", is_targeted=True),
    Variant("pgd", "prototype"),
    Variant("pgd", "matching"),
    *map(
        Variant,
        (
            *("m_attack", "ensemble", "universal", "low_frequency", "joint"),
            *("patch", "patch_corner", "perceptual", "spatial", "typographic", "figstep"),
        ),
    ),
)


def variants_named(names: Sequence[str]) -> tuple[Variant, ...]:
    """Those of the setting `families`: `all`, `none`, or labels.

    Raises:
        LabError: for an unknown label.
    """
    known = {variant.label: variant for variant in VARIANTS}
    if set(names) <= {"all", "none"}:
        return VARIANTS if "all" in names else ()
    if set(names) - set(known):
        raise LabError(f"--families takes all, none, or names from {', '.join(known)}")
    return tuple(known[name] for name in names)


def labels_of(variants: Sequence[Variant]) -> set[str]:
    """What the rows of these variants call their attacks."""
    labels = {variant.label for variant in variants}
    return labels | {label + WORDS_SUFFIX for label in labels}


def suite_uploads(
    attacker: Attacker,
    settings: ObliviousSettings,
    variants: Sequence[Variant],
    scenes: Sequence[TrueScene],
) -> Iterator[tuple[Variant, Uploads]]:
    """Every variant's images at the main radius."""
    clean = [scene.image for scene in scenes]
    for variant in variants:
        config = variant.config(settings)
        threat = Threat.of(config, tier=Tier.OBLIVIOUS, label=variant.label)
        yield variant, Uploads(threat, attacker.oblivious(config, scenes), clean)


def family_rows(context: EvalContext, variants: Sequence[Variant]) -> list[Row]:
    """Every condition under each variant, on the first scenes; interrupted, it resumes.

    A word written on an image makes "what does the sign say" ambiguous: scenes that were written
    on are not asked it. Where the attacker rewords the questions too, the same wordings on clean
    images are a row of their own.

    Args:
        context: victim, scenes, conditions and settings.
        variants: what is run.
    """
    attacker = Uploader(context).attacker
    num = min(context.tiers.num_scenes_families, len(context.scenes))
    plain = Assessor.of(context)
    signless = Assessor.of(replace(context, scenes=[without_sign(s) for s in context.scenes]))
    rows: list[Row] = []
    own = context.scenes[:num]
    for variant, uploads in suite_uploads(attacker, context.oblivious, variants, own):
        assessor, asked, sets = (signless if variant.is_written else plain), None, [uploads]
        if variant.name == "joint":
            wordings = attacker.wordings(variant.config(context.oblivious), own)
            scenes = [reworded(s, w) for s, w in zip(own, wordings, strict=True)]
            asked = Assessor.of(replace(context, scenes=[*scenes, *context.scenes[num:]]))
            words = replace(uploads.threat, attack=uploads.threat.attack + WORDS_SUFFIX)
            sets.append(Uploads(words, uploads.clean))
        for each in sets:
            rows += assessor.all_rows(each.threat, (asked or assessor).all_scores(each))
            for condition in context.conditions if variant.is_written and own[0].captions else ():
                measures = [_wrong_words(assessor, condition, each)]
                rows += assessor.row_list(condition.name, each.threat, measures)
    return rows


def _wrong_words(assessor: Assessor, condition: Condition, uploads: Uploads) -> Measure:
    """How many captions name an absent thing, of those that are written on images."""
    context = assessor.context
    absent = [absent_words(truths(scene)) for scene in context.scenes[: len(uploads.images)]]
    outcomes = assessor.outcomes(condition, uploads, context.oblivious.seeds)
    named = [
        [names_any(caption, words) for caption, words in zip(each.captions, absent, strict=True)]
        for each in outcomes
    ]
    return "caption", "wrong_word_rate", wilson(float(np.mean(named)), len(absent))


@dataclass(frozen=True, slots=True)
class _Scene:
    """A scene that is asked other questions, or in other words."""

    image: np.ndarray
    captions: tuple[str, ...]
    questions: tuple[AskedQuestion, ...]
    objects: tuple[str, ...]
    request: str | None

    @classmethod
    def of(cls, scene: TrueScene, questions: Sequence[AskedQuestion]) -> _Scene:
        return cls(scene.image, scene.captions, tuple(questions), scene.objects, scene.request)


def without_sign(scene: TrueScene) -> TrueScene:
    """The scene, not asked what its sign says: a word that was written on it makes that unclear."""
    return _Scene.of(scene, [question for question in scene.questions if question.kind != "sign"])


def reworded(scene: TrueScene, wording: Sequence[str]) -> TrueScene:
    """The scene's questions in the attacker's words; the caption is asked for as ever."""
    asked = zip(scene.questions, wording[bool(scene.captions) :], strict=True)
    return _Scene.of(scene, [replace(cast("Any", each), question=text) for each, text in asked])
