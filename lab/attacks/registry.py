"""Attacks by name, with the parameters that a report states; a new attack is a new row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lab.attacks.apgd import APGD
from lab.attacks.interface import Attack
from lab.attacks.noise import UniformNoise
from lab.attacks.pgd import PGD

__all__ = ["ATTACKS", "AttackConfig"]

Goal = Literal["language", "margin", "encoder"]

ATTACKS: dict[str, Callable[[AttackConfig], Attack]] = {
    "pgd": lambda config: PGD(epsilon=config.epsilon, steps=config.steps, restarts=config.restarts),
    "apgd": lambda config: APGD(
        epsilon=config.epsilon, steps=config.steps, restarts=config.restarts
    ),
    "uniform_noise": lambda config: UniformNoise(epsilon=config.epsilon),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackConfig:
    """One attack as reports and caches identify it.

    Attributes:
        name: a key of ``ATTACKS``.
        epsilon: l-infinity radius as a fraction of the range.
        steps: gradient steps in each restart; 0 where the attack takes none.
        restarts: independent runs.
        goal: the language model's cross-entropy, the margin of its right answers, or the
            encoder's features.
        targeted: whether it heads for a chosen answer or image.
        seed: of its random starts.
    """

    name: str
    epsilon: float
    steps: int
    restarts: int = 1
    goal: Goal = "language"
    targeted: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses an unknown name."""
        if self.name not in ATTACKS:
            raise ValueError(f"unknown attack {self.name!r}; known: {', '.join(sorted(ATTACKS))}")
        if self.targeted and self.goal != "language":
            raise ValueError(f"goal {self.goal!r} has no targeted form")

    def build(self) -> Attack:
        """The attack itself."""
        return ATTACKS[self.name](self)

    @property
    def family(self) -> str:
        """What the attack exploits, as reports group it."""
        if self.name == "uniform_noise":
            return "random_noise"
        return "encoder_features" if self.goal == "encoder" else "language_loss"

    @property
    def label(self) -> str:
        """Search and goal, as a report's rows call the attack."""
        return self.name if self.goal == "language" else f"{self.name}-{self.goal}"

    @property
    def is_held_out(self) -> bool:
        """Whether the purifier's training saw nothing of the family."""
        return self.family == "random_noise"
