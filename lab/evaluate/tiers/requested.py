"""From the command line's words to the plan of the tiers beyond T0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import Goal
from codefend.lab.errors import LabError
from codefend.lab.evaluate.tiers.plan import Budget, TierPlan, plan_for

__all__ = ["requested_goals", "requested_numbers", "requested_plan"]

_GRADIENTS = ("exact", "bpda", "surrogate")


def requested_plan(
    budget: Budget,
    *,
    goals: str = "",
    gradients: str = "",
    scenes: str = "",
    curve_steps: str = "",
    queries: str = "",
    autocast: str = "",
    numbers: Mapping[str, int] | None = None,
) -> TierPlan:
    """A budget's plan with whatever was asked for otherwise.

    Args:
        budget: what holds where nothing else is said.
        goals: comma-separated, or empty.
        gradients: likewise.
        scenes: such as ``t1=64,t2=32``, or empty.
        curve_steps: comma-separated, or empty.
        queries: likewise.
        autocast: torch dtype of purifiers under attack, or empty.
        numbers: fields of the plan; what is zero is the budget's.

    Raises:
        LabError: for words that mean nothing here.
    """
    plan = plan_for(budget)
    changes: dict[str, Any] = {name: num for name, num in (numbers or {}).items() if num}
    changes["autocast"] = autocast
    if goals:
        changes["goals"] = requested_goals(goals, "--tier-goals")
        if "encoder" in goals:
            raise LabError("--tier-goals takes language and margin: T1 and T2 move answers")
    if gradients:
        changes["gradients"] = _among(_GRADIENTS, gradients, "--gradients")
    if curve_steps:
        changes["curve_steps"] = requested_numbers(curve_steps, "--curve-steps")
    if queries:
        changes["num_queries"] = requested_numbers(queries, "--queries")
    if scenes:
        changes["num_scenes"] = {**plan.num_scenes, **_scenes(scenes)}
        num = changes["num_scenes"][Tier.WHITE_BOX]
        changes["num_scenes_diffpure"] = min(plan.num_scenes_diffpure, num)
    try:
        return replace(plan, **changes)
    except ValueError as error:
        raise LabError(str(error)) from error


def requested_goals(names: str, option: str) -> tuple[Goal, ...]:
    """Goals by name, in the order of their definition.

    Raises:
        LabError: for an unknown one.
    """
    wanted: tuple[Goal, ...] = _among(get_args(Goal), names, option)
    return wanted


def requested_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers above zero, comma-separated.

    Raises:
        LabError: for anything else.
    """
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise LabError(f"{option} takes whole numbers such as 50,100: {error}") from error
    if min(numbers) < 1:
        raise LabError(f"{option} takes numbers above zero, not {text}")
    return numbers


def _among(known: tuple[Any, ...], names: str, option: str) -> tuple[Any, ...]:
    wanted = tuple(name for name in known if name in names.split(","))
    if len(wanted) != len(names.split(",")):
        raise LabError(f"{option} takes names from {', '.join(known)}; got {names}")
    return wanted


def _scenes(text: str) -> dict[Tier, int]:
    try:
        pairs = (part.split("=") for part in text.split(","))
        return {Tier(name): int(num) for name, num in pairs}
    except ValueError as error:
        raise LabError(f"--tier-scenes takes pairs such as t1=64,t2=32: {error}") from error
