"""What a reader of the tiers' tables must know, from the plan that was run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.checks import Check
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.tiers.plan import TierPlan

__all__ = ["check_notes", "tier_notes"]


def tier_notes(bench: Bench, tiers: Collection[Tier], *, num_services: int) -> str:
    """One paragraph a tier."""
    plan, oblivious = bench.plan, bench.oblivious
    goals = " and ".join(plan.goals)
    search = f"{oblivious.attack} on {goals}, {plan.steps} steps"
    notes = {
        Tier.TRANSFER: f"T1: {search}, through a surrogate purifier ({bench.surrogate.setting}), "
        f"its noise level drawn anew, {plan.num_draws_transfer} draws averaged at every step; the "
        "same images for every defence. A defence with the surrogate's own weights is no stranger "
        "to it.",
        Tier.WHITE_BOX: f"T2: {search}, through each defence and its prompt, "
        f"{_draws(plan)} averaged at every step where it draws noise. Every gradient of "
        f"{', '.join(plan.gradients)} that a defence has makes its own images (exact replays each "
        "step's noise; defences that draw none are attacked by all that they have); "
        f"{plan.num_focused} further rounds (-left) attack alone the answers that all before left "
        f"standing, {plan.num_focused_still} where no noise is drawn. "
        "worst-of-all counts an answer that any of these, of T0's or of T1's images spoils: the "
        "attacker chooses the upload by the answer. Rows with -curve repeat the exact attack of "
        f"every answer at once with other numbers of steps and {plan.num_draws_curve} draws on "
        "fewer scenes. accuracy_lost is in points, paired by scene.",
        Tier.RESUBMISSION: f"T3: each upload is sent {plan.num_repeats} times and purified anew. "
        "accuracy is the mean, worst counts an answer that is ever wrong, majority takes the most "
        "frequent text; clean images (attack none) lose by it too. Draws of noise are no defence "
        "against an attacker who may try again.",
        Tier.QUERY: "T4: Square and MF-tt see texts alone; steps are HTTP requests for each image, "
        "one for the caption and one for each question of every look. -full and -minimal name what "
        "the service disclosed; these attackers use none of it. Scored by what the service itself "
        "answers, asked anew for every seed.",
    }
    told = [note for tier, note in notes.items() if tier in tiers]
    if Tier.QUERY in tiers and num_services == 0:
        told.append("**T4 was not run: no --defence-url was given.**")
    return "\n\n".join(told)


def _draws(plan: TierPlan) -> str:
    if plan.num_draws == plan.num_draws_network:
        return f"{plan.num_draws} draws"
    return f"{plan.num_draws} draws ({plan.num_draws_network} of a network's)"


def check_notes(checks: Sequence[Check]) -> str:
    """Every check with its outcome and reason, as a section."""
    if not checks:
        return ""
    lines = [
        f"- {'passed' if check.passed else '**FAILED**'}: {check.name}: {check.reason}"
        for check in checks
    ]
    return "\n".join(["## Checks", "", *lines])
