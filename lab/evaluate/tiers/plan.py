"""How much of each tier is run, by what there is to run it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import Goal

__all__ = ["Budget", "TierPlan", "plan_for"]


class Budget(StrEnum):
    """What an evaluation may cost."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPlan:
    """The tiers beyond T0; radius, search, restarts and seeds are those of T0's plan.

    Attributes:
        num_scenes: how many of the test scenes each tier attacks, the first of them.
        num_scenes_diffpure: how many of T2's are also attacked through DiffPure: it is slow.
        num_scenes_curve: how many of T2's the step curve is drawn on.
        goals: what the attacks through a defence move.
        steps: gradient steps of T1 and T2.
        num_scenes_families: how many scenes the attack suite of T0 is run on.
        num_draws_transfer: draws of the surrogate's noise averaged at every step of T1.
        num_draws: draws of the defence's noise averaged at every step of T2.
        num_draws_network: likewise through a defence that is a network, whose every draw costs.
        num_draws_curve: likewise for the step curve.
        draws_at_once: how many of T2's are one batch, at most.
        gradients: ways through a defence that draws noise, of those that it has; each makes its own
            images. Others are cheap, and attacked in every way that they have.
        num_focused: further rounds of T2, each at the answers that all before left standing: one
            perturbation of all answers settles where the gain in one is the loss in another.
        num_focused_still: likewise through a defence that draws no noise.
        curve_steps: steps of the curve.
        num_repeats: how often T3 sends each upload.
        num_queries: budgets of T4 for each image, in HTTP requests.
        batch_size: images attacked at once; what an interruption loses.
        batch_size_queried: likewise for T4.
        autocast: torch dtype in which purifiers multiply under attack; their own where empty.
    """

    num_scenes: Mapping[Tier, int]
    num_scenes_diffpure: int
    num_scenes_curve: int
    num_scenes_families: int
    goals: tuple[Goal, ...] = ("margin",)
    steps: int = 100
    num_draws_transfer: int = 10
    num_draws: int = 16
    num_draws_network: int = 16
    num_draws_curve: int = 16
    draws_at_once: int = 1
    gradients: tuple[str, ...] = ("exact", "bpda", "surrogate")
    num_focused: int = 2
    num_focused_still: int = 4
    curve_steps: tuple[int, ...] = (50, 100, 200, 400)
    num_repeats: int = 10
    num_queries: tuple[int, ...] = (1_000, 10_000)
    batch_size: int = 8
    batch_size_queried: int = 4
    autocast: str = ""

    def __post_init__(self) -> None:
        """Refuses a tier without scenes."""
        if min([*self.num_scenes.values(), self.num_scenes_diffpure, self.num_scenes_curve]) < 1:
            raise ValueError("every tier needs at least one scene")


_PLANS = {
    Budget.CPU: TierPlan(
        num_scenes=MappingProxyType(
            {Tier.TRANSFER: 64, Tier.WHITE_BOX: 32, Tier.RESUBMISSION: 64, Tier.QUERY: 16}
        ),
        num_scenes_diffpure=8,
        num_scenes_curve=4,
        num_scenes_families=32,
        steps=50,
        num_draws_transfer=5,
        num_draws_network=8,
        num_draws_curve=4,
        gradients=("exact", "bpda"),
        num_queries=(1_000,),
    ),
    Budget.GPU: TierPlan(
        num_scenes=MappingProxyType(
            {Tier.TRANSFER: 256, Tier.WHITE_BOX: 256, Tier.RESUBMISSION: 256, Tier.QUERY: 64}
        ),
        num_scenes_diffpure=64,
        num_scenes_curve=64,
        num_scenes_families=128,
        goals=("language", "margin"),
        draws_at_once=16,
        batch_size=64,
        batch_size_queried=16,
    ),
}


def plan_for(budget: Budget) -> TierPlan:
    """The numbers of scenes and steps of a budget."""
    return _PLANS[budget]
