"""All that the tiers share: victim, scenes, conditions, plans, and where files are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codefend.lab.baselines.defence import Forward
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.run import Plan
from codefend.lab.evaluate.tiers.plan import TierPlan
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.victims.victim import Victim

__all__ = ["Bench", "Surrogate"]


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The purifier of T1's attacker.

    Attributes:
        setting: weights and noise levels, enough to tell results apart.
        passage: the way through it.
    """

    setting: str
    passage: Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One evaluation beyond T0.

    Attributes:
        victim: who is asked.
        attacker: whose gradients are used: the victim, or its copy in another precision.
        scenes: test scenes; captions of all are CIDEr's references.
        conditions: ``none`` first.
        oblivious: T0's plan, whose radius, search, restarts and seeds hold here too.
        plan: everything else.
        surrogate: what T1 attacks through.
        out: folder of attacked images and outcomes.
    """

    victim: Victim
    attacker: Victim
    scenes: Sequence[TrueScene]
    conditions: Sequence[Condition]
    oblivious: Plan
    plan: TierPlan
    surrogate: Surrogate
    out: Path

    def __post_init__(self) -> None:
        """Refuses conditions that cannot be compared with the undefended model."""
        if not self.conditions or self.conditions[0].name != "none":
            raise ValueError("the first condition must be the undefended one, named none")
