"""Attacks by name, with the parameters that a report states; a new attack is a new row here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from codefend.lab.attacks.apgd import APGD
from codefend.lab.attacks.budgets import Ball
from codefend.lab.attacks.gradient import PGD, BallAttack, GradientAttack, UniformNoise
from codefend.lab.attacks.interface import Attack, Budget, Budgeted, Goal
from codefend.lab.attacks.joint import JointAttack
from codefend.lab.attacks.parametrised import (
    AdversarialPatch,
    LowFrequency,
    PerceptualAttack,
    SpatialFlow,
)
from codefend.lab.attacks.scaling import ImageScaling
from codefend.lab.attacks.transfer import EnsembleTransfer, LocalCrops, UniversalPerturbation
from codefend.lab.attacks.typographic import (
    TextPage,
    TypographicAttack,
    absent_words,
    misleading_words,
)
from codefend.lab.victims.dialogue import Dialogue

__all__ = ["ATTACKS", "HELD_OUT", "AttackConfig", "AttackEntry", "Family", "Goal"]

Truths = Sequence[Sequence[Dialogue]]
Build = Callable[["AttackConfig", Truths], Attack]


class Family(StrEnum):
    """What attacks exploit, as reports group them."""

    LANGUAGE_LOSS = "language_loss"
    ENCODER_FEATURES = "encoder_features"
    IMAGE_TEXT_MATCHING = "image_text_matching"
    LOCAL_CROPS = "local_crops"
    SURROGATE_ENSEMBLE = "surrogate_ensemble"
    UNIVERSAL = "universal"
    PATCH = "patch"
    LOW_FREQUENCY = "low_frequency"
    PERCEPTUAL = "perceptual"
    SPATIAL = "spatial"
    JOINT = "joint"
    TYPOGRAPHIC = "typographic"
    SCALING = "scaling"
    RANDOM_NOISE = "random_noise"


HELD_OUT: frozenset[Family] = frozenset(Family) - {Family.LANGUAGE_LOSS, Family.ENCODER_FEATURES}
"""Families of which training sees nothing. The one place: reports and the pair maker ask here."""

_FAMILIES_OF_GOALS: dict[Goal, Family] = {
    "language": Family.LANGUAGE_LOSS,
    "margin": Family.LANGUAGE_LOSS,
    "encoder": Family.ENCODER_FEATURES,
    "prototype": Family.ENCODER_FEATURES,
    "matching": Family.IMAGE_TEXT_MATCHING,
}
_TARGETED_GOALS: frozenset[Goal] = frozenset({"language", "encoder", "matching"})


@dataclass(frozen=True, slots=True)
class AttackEntry:
    """How an attack is made from its configuration.

    Attributes:
        build: the attack, given what is true of each image: typographic attacks write what is not.
        family: what it exploits; its goal decides where None.
        is_ball: whether epsilon bounds it; what else does is its own, and stated in its class.
        goals: what it may move.
        can_target: whether it can head for something chosen.
    """

    build: Build
    family: Family | None = None
    is_ball: bool = True
    goals: frozenset[Goal] = frozenset(_FAMILIES_OF_GOALS)
    can_target: bool = True


def _ball(attack: type[BallAttack]) -> Build:
    """An attack in the l-infinity ball that epsilon is the radius of."""
    return lambda c, _: attack(epsilon=c.epsilon, steps=c.steps, restarts=c.restarts)


def _own(attack: type[GradientAttack], **options: Any) -> Build:
    """An attack with a bound of its own."""
    return lambda c, _: attack(steps=c.steps, restarts=c.restarts, **options)


ATTACKS: dict[str, AttackEntry] = {
    "pgd": AttackEntry(_ball(PGD)),
    "apgd": AttackEntry(_ball(APGD)),
    "m_attack": AttackEntry(_ball(LocalCrops), Family.LOCAL_CROPS),
    "ensemble": AttackEntry(_ball(EnsembleTransfer), Family.SURROGATE_ENSEMBLE),
    "universal": AttackEntry(_ball(UniversalPerturbation), Family.UNIVERSAL),
    "low_frequency": AttackEntry(_ball(LowFrequency), Family.LOW_FREQUENCY),
    "joint": AttackEntry(
        _ball(JointAttack),
        Family.JOINT,
        goals=frozenset({"language", "margin"}),
        can_target=False,
    ),
    "patch": AttackEntry(_own(AdversarialPatch), Family.PATCH, is_ball=False),
    "patch_corner": AttackEntry(
        _own(AdversarialPatch, place=(1.0, 1.0)), Family.PATCH, is_ball=False
    ),
    "perceptual": AttackEntry(_own(PerceptualAttack), Family.PERCEPTUAL, is_ball=False),
    "spatial": AttackEntry(_own(SpatialFlow), Family.SPATIAL, is_ball=False),
    "typographic": AttackEntry(
        lambda c, truths: TypographicAttack(
            words=[misleading_words(group) for group in truths], restarts=c.restarts
        ),
        Family.TYPOGRAPHIC,
        is_ball=False,
        can_target=False,
    ),
    "figstep": AttackEntry(
        lambda c, truths: TextPage(words=[absent_words(group) for group in truths]),
        Family.TYPOGRAPHIC,
        is_ball=False,
        can_target=False,
    ),
    "scaling": AttackEntry(
        lambda c, _: ImageScaling(steps=c.steps), Family.SCALING, is_ball=False, can_target=False
    ),
    "uniform_noise": AttackEntry(lambda c, _: UniformNoise(epsilon=c.epsilon), Family.RANDOM_NOISE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackConfig:
    """One attack as reports and caches identify it.

    Attributes:
        name: a key of ``ATTACKS``.
        epsilon: l-infinity radius as a fraction of the range; 1 where something else bounds the
            attack (see ``budget``), because single pixels may then take any value.
        steps: gradient steps in each restart; 0 where the attack takes none.
        restarts: independent runs.
        goal: the language model's cross-entropy, the margin of its right answers, the encoder's
            features, these with an anchor to head for, or the match of image and text.
        targeted: whether it heads for a chosen answer, image or text.
        seed: of its random choices.
    """

    name: str
    epsilon: float
    steps: int
    restarts: int = 1
    goal: Goal = "language"
    targeted: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses an unknown name, and what the named attack cannot do."""
        if self.name not in ATTACKS:
            raise ValueError(f"unknown attack {self.name!r}; known: {', '.join(sorted(ATTACKS))}")
        row = ATTACKS[self.name]
        if self.goal not in row.goals:
            raise ValueError(f"attack {self.name!r} has no goal {self.goal!r}")
        if self.targeted and (self.goal not in _TARGETED_GOALS or not row.can_target):
            raise ValueError(f"{self.name!r} with goal {self.goal!r} has no targeted form")
        if not row.is_ball and self.epsilon != 1.0:
            raise ValueError(f"{self.name!r} is not bounded by l-infinity: its epsilon must be 1")

    def build(self, truths: Truths = ()) -> Attack:
        """The attack itself.

        Args:
            truths: what is true of each image that it will be given; some attacks write what is
                not. Without it, those write any word.
        """
        return ATTACKS[self.name].build(self, truths)

    def for_training(self) -> AttackConfig:
        """This configuration, if the purifier's training may see attacks of its family.

        Raises:
            ValueError: where the family is held out.
        """
        if self.is_held_out:
            raise ValueError(f"{self.family} is held out: training must not see {self.label}")
        return self

    @property
    def budget(self) -> Budget:
        """What bounds the attack."""
        attack = self.build()
        return attack.budget if isinstance(attack, Budgeted) else Ball(self.epsilon)

    @property
    def family(self) -> Family:
        """What the attack exploits, as reports group it."""
        return ATTACKS[self.name].family or _FAMILIES_OF_GOALS[self.goal]

    @property
    def label(self) -> str:
        """Search and goal, as a report's rows call the attack."""
        return self.name if self.goal == "language" else f"{self.name}-{self.goal}"

    @property
    def is_held_out(self) -> bool:
        """Whether the purifier's training saw nothing of the family."""
        return self.family in HELD_OUT
