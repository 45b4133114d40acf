"""T2: every defence attacked through itself, by every gradient it has; the union is what counts."""

from __future__ import annotations

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.marks import Marks, worst
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.tiers.assess import Assessor
from codefend.lab.evaluate.tiers.plan import TierPlan
from codefend.lab.evaluate.tiers.uploads import Uploader, Uploads, union_threat
from codefend.lab.experiments.report import Row, Threat
from codefend.lab.labels import OURS

__all__ = ["curve_rows", "num_white_box", "white_box_rows", "white_box_uploads"]

_NEAREST_FIRST = ("exact", "surrogate", "bpda")


def num_white_box(uploader: Uploader, condition: Condition) -> int:
    """How many scenes are attacked through a condition's defence."""
    plan = uploader.bench.plan
    num = min(plan.num_scenes[Tier.WHITE_BOX], len(uploader.bench.scenes))
    return min(num, plan.num_scenes_diffpure) if condition.name == "diffpure" else num


def white_box_uploads(uploader: Uploader, condition: Condition, num: int) -> list[Uploads]:
    """Images attacked through a condition, one set for each goal and gradient."""
    plan = uploader.bench.plan
    return [
        uploader.white_box(condition, num, gradient, goal)
        for goal in plan.goals
        for gradient in _gradients(condition, plan)
    ]


def white_box_rows(uploader: Uploader, assessor: Assessor) -> list[Row]:
    """Every condition under each of its own attacks, and under the union with T0's and T1's."""
    bench = uploader.bench
    unions: dict[str, Marks] = {}
    rows: list[Row] = []
    threats: dict[str, Threat] = {}
    for condition in bench.conditions:
        num = num_white_box(uploader, condition)
        own = white_box_uploads(uploader, condition, num)
        marks = [assessor.marks(condition, uploads) for uploads in own]
        for uploads, its_marks in zip(own, marks, strict=True):
            rows += assessor.rows(condition, uploads.threat, its_marks)
        others = [*uploader.oblivious(num), *uploader.transferred(num)]
        marks += [assessor.marks(condition, uploads) for uploads in others]
        unions[condition.name] = worst(marks)
        for number, gradient in enumerate(_focused_gradients(condition, bench.plan), start=1):
            left = unions[condition.name]
            uploads = uploader.focused(condition, left, gradient, number)
            found = assessor.marks(condition, uploads)
            rows += assessor.rows(condition, uploads.threat, found)
            unions[condition.name] = worst([left, found])
        threats[condition.name] = union_threat([*own, *others], Tier.WHITE_BOX)
    for condition in bench.conditions:
        name = condition.name
        rows += assessor.rows(condition, threats[name], unions[name], unions)
    return rows + _noise_rows(uploader, assessor)


def curve_rows(uploader: Uploader, assessor: Assessor) -> list[Row]:
    """Our defence under ever longer runs of its strongest-founded attack: exact, first goal."""
    bench = uploader.bench
    ours = next((c for name in OURS for c in bench.conditions if c.name == name), None)
    if ours is None:
        return []
    num = min(bench.plan.num_scenes_curve, num_white_box(uploader, ours))
    rows: list[Row] = []
    for steps in bench.plan.curve_steps:
        uploads = uploader.white_box(ours, num, "exact", bench.plan.goals[0], steps)
        rows += assessor.rows(ours, uploads.threat, assessor.marks(ours, uploads))
    return rows


def _gradients(condition: Condition, plan: TierPlan) -> list[str]:
    """The plan's that the defence has; all that it has where a step costs a single draw."""
    gradient_paths = condition.defence.gradient_paths
    wanted = plan.gradients if condition.defence.is_random else _NEAREST_FIRST
    return [gradient for gradient in wanted if gradient in gradient_paths]


def _focused_gradients(condition: Condition, plan: TierPlan) -> list[str]:
    """One for each further round: the nearest to the derivative; of a still defence all in turn."""
    own = [gradient for gradient in _NEAREST_FIRST if gradient in condition.defence.gradient_paths]
    if condition.defence.is_random:
        return own[:1] * plan.num_focused
    return [own[number % len(own)] for number in range(plan.num_focused_still)]


def _noise_rows(uploader: Uploader, assessor: Assessor) -> list[Row]:
    """Uniform noise, shown to the undefended model and to ours."""
    bench = uploader.bench
    num = min(bench.plan.num_scenes[Tier.WHITE_BOX], len(bench.scenes))
    uploads = uploader.noised(num, tier=Tier.WHITE_BOX)
    rows: list[Row] = []
    for condition in bench.conditions:
        if condition.name == "none" or condition.name in OURS:
            rows += assessor.rows(condition, uploads.threat, assessor.marks(condition, uploads))
    return rows
