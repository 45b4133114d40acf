"""The threat models, each declared as uploads, conditions and what is made of their scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.assess import Assessor
from codefend.lab.evaluate.context import EvalContext, TierSettings
from codefend.lab.evaluate.outcomes import Condition, Responses, majority
from codefend.lab.evaluate.query import query_rows
from codefend.lab.evaluate.scores import Scores, measure_alone, worst, worst_repeat
from codefend.lab.evaluate.suite import Variant, family_rows
from codefend.lab.evaluate.uploads import Uploader, Uploads, oblivious_uploads, union_threat
from codefend.lab.experiments.report import Row, Threat
from codefend.lab.experiments.statistics import Measure
from codefend.lab.labels import OURS, UNION
from codefend.lab.service_client import ServiceClient

__all__ = ["oblivious_rows", "tier_rows", "white_box_rows", "white_box_uploads"]

_VOTED = frozenset({"accuracy", "cider", "objects_named"})


def oblivious_rows(context: EvalContext, *, is_attacked: bool = True) -> list[Row]:
    """T0, every condition: clean, under each attack, and under the worst at the main radius.

    Args:
        context: victim, scenes, conditions and settings.
        is_attacked: whether anything is attacked; else figures are of clean scenes alone.
    """
    uploader, assessor = Uploader(context), Assessor.of(context)
    whole, settings = len(context.scenes), context.oblivious
    clean = uploader.clean(whole)
    rows = assessor.all_rows(clean.threat, assessor.all_scores(clean), num_clean=whole)
    if not is_attacked:
        return rows
    main: list[tuple[Uploads, dict[str, Scores]]] = []
    for uploads in oblivious_uploads(uploader.attacker, settings, context.scenes):
        scores = assessor.all_scores(uploads)
        rows += assessor.all_rows(uploads.threat, scores, num_clean=whole)
        if uploads.targets is None and uploads.threat.epsilon == settings.epsilon / 255:
            main.append((uploads, scores))
    if len(main) > 1:
        threat = replace(main[0][0].threat, attack=UNION)
        unions = {name: worst([found[name] for _, found in main]) for name in main[0][1]}
        rows += assessor.all_rows(threat, unions, num_clean=whole)
    undefended = context.conditions[:1]
    for epsilon in sorted({settings.epsilon, *settings.epsilons}):
        noised = uploader.noised(settings.num_scenes_other, tier=Tier.OBLIVIOUS, epsilon=epsilon)
        scores = assessor.all_scores(noised, undefended)
        rows += assessor.all_rows(noised.threat, scores, num_clean=whole)
    return rows


def tier_rows(
    context: EvalContext,
    tiers: Collection[Tier],
    services: Sequence[ServiceClient] = (),
    *,
    variants: Sequence[Variant] = (),
) -> list[Row]:
    """Every figure of the suite and of the tiers beyond T0; resumes from the report's folder.

    Args:
        context: victim, scenes, conditions and settings.
        tiers: which of T1 to T4; T4 only where there are services. Without T0 among them, clean
            figures of the first scenes are given too.
        services: running services for T4.
        variants: of the attack suite, which T0 runs beside its own attacks.
    """
    uploader, assessor = Uploader(context), Assessor.of(context)
    rows: list[Row] = []
    if Tier.OBLIVIOUS in tiers:
        rows += family_rows(context, variants)
    else:
        uploads = uploader.clean(max(context.tiers.num_scenes.values()))
        for condition in context.conditions:
            rows += assessor.rows(condition, uploads.threat, assessor.scores(condition, uploads))
    if Tier.TRANSFER in tiers:
        rows += _transfer_rows(uploader, assessor)
    if Tier.WHITE_BOX in tiers:
        rows += white_box_rows(uploader, assessor)
        rows += _curve_rows(uploader, assessor)
    if Tier.RESUBMISSION in tiers:
        rows += _resubmission_rows(uploader, assessor, tiers)
    if Tier.QUERY in tiers:
        rows += query_rows(assessor, services)
    return rows


def _transfer_rows(uploader: Uploader, assessor: Assessor) -> list[Row]:
    """T1: every condition under each goal, and under the worst of them where there are several."""
    sets = uploader.transferred(uploader.context.num(Tier.TRANSFER))
    scores = [assessor.all_scores(uploads) for uploads in sets]
    rows: list[Row] = []
    for uploads, found in zip(sets, scores, strict=True):
        rows += assessor.all_rows(uploads.threat, found)
    if len(sets) > 1:
        union = {name: worst([found[name] for found in scores]) for name in scores[0]}
        rows += assessor.all_rows(union_threat(sets, Tier.TRANSFER), union)
    return rows


def white_box_uploads(uploader: Uploader, condition: Condition, num: int) -> list[Uploads]:
    """Images attacked through a condition, one set for each goal and gradient."""
    settings = uploader.context.tiers
    return [
        uploader.white_box(condition, num, gradient, goal)
        for goal in settings.goals
        for gradient in _gradients(condition, settings)
    ]


def white_box_rows(uploader: Uploader, assessor: Assessor) -> list[Row]:
    """T2: every condition under each of its own attacks, and under the union with T0's and T1's."""
    context = uploader.context
    unions: dict[str, Scores] = {}
    threats: dict[str, Threat] = {}
    rows: list[Row] = []
    for condition in context.conditions:
        num = context.num_through(condition)
        own = white_box_uploads(uploader, condition, num)
        scores = [assessor.scores(condition, uploads) for uploads in own]
        for uploads, found in zip(own, scores, strict=True):
            rows += assessor.rows(condition, uploads.threat, found)
        others = [*uploader.oblivious(num), *uploader.transferred(num)]
        left = worst([*scores, *(assessor.scores(condition, uploads) for uploads in others)])
        for number, gradient in enumerate(_focused_gradients(condition, context.tiers), start=1):
            uploads = uploader.focused(condition, left, gradient, number)
            found = assessor.scores(condition, uploads)
            rows += assessor.rows(condition, uploads.threat, found)
            left = worst([left, found])
        unions[condition.name] = left
        threats[condition.name] = union_threat([*own, *others], Tier.WHITE_BOX)
    for condition in context.conditions:
        name = condition.name
        rows += assessor.rows(condition, threats[name], unions[name], unions)
    noised = uploader.noised(context.num(Tier.WHITE_BOX), tier=Tier.WHITE_BOX)
    for condition in context.conditions:
        if condition.name == "none" or condition.name in OURS:
            rows += assessor.rows(condition, noised.threat, assessor.scores(condition, noised))
    return rows


def _curve_rows(uploader: Uploader, assessor: Assessor) -> list[Row]:
    """Our defence under ever longer runs of its strongest-founded attack: exact, first goal."""
    context = uploader.context
    ours = next((c for name in OURS for c in context.conditions if c.name == name), None)
    if ours is None:
        return []
    num = min(context.tiers.num_scenes_curve, context.num_through(ours))
    rows: list[Row] = []
    for steps in context.tiers.curve_steps:
        uploads = uploader.white_box(ours, num, "exact", context.tiers.goals[0], steps)
        rows += assessor.rows(ours, uploads.threat, assessor.scores(ours, uploads))
    return rows


def _gradients(condition: Condition, settings: TierSettings) -> list[str]:
    """The settings' that it has, and who evades; all where it has none of these, or no noise."""
    own = condition.defence.gradients
    wanted = [gradient for gradient in settings.gradients if gradient in own]
    if not (condition.defence.is_random and wanted):
        return own
    return [*condition.defence.penalties, *wanted]


def _focused_gradients(condition: Condition, settings: TierSettings) -> list[str]:
    """One for each further round: the first that it has; of a still defence all in turn."""
    own = condition.defence.gradients
    if condition.defence.is_random:
        return own[:1] * settings.num_focused
    return [own[number % len(own)] for number in range(settings.num_focused_still)]


def _resubmission_rows(
    uploader: Uploader, assessor: Assessor, tiers: Collection[Tier]
) -> list[Row]:
    """T3: every condition under repeated uploads of clean images and of each tier's attacks.

    Args:
        uploader: makes the uploads.
        assessor: asks.
        tiers: whose images are sent again; T0's always are.
    """
    context, repeats = uploader.context, uploader.context.tiers.num_repeats
    num = context.num(Tier.RESUBMISSION)
    shared = [uploader.clean(num), *uploader.oblivious(num)]
    if Tier.TRANSFER in tiers:
        shared += uploader.transferred(min(num, context.num(Tier.TRANSFER)))
    rows: list[Row] = []
    for condition in context.conditions:
        own: list[Uploads] = []
        if Tier.WHITE_BOX in tiers:
            num_own = min(num, context.num_through(condition))
            own = white_box_uploads(uploader, condition, num_own)
        for uploads in [*shared, *own]:
            outcomes = assessor.outcomes(condition, uploads, repeats)
            if len(outcomes) < repeats:  # without noise every repeat is the first
                outcomes = outcomes * repeats
            made = uploads.threat
            label = "none" if made.tier == Tier.CLEAN else f"{made.tier}/{made.attack}"
            threat = replace(made, tier=Tier.RESUBMISSION, attack=label)
            measures = _voted_measures(assessor, outcomes, len(uploads.images))
            found = assessor.row_list(condition.name, threat, measures)
            rows += [replace(row, seeds=repeats) for row in found]
    return rows


def _voted_measures(assessor: Assessor, outcomes: Sequence[Responses], num: int) -> list[Measure]:
    """On average, at worst, and by majority."""
    scores = assessor.score(outcomes, num)
    measures = [*measure_alone(scores)]
    for suffix, found in (
        ("worst", worst_repeat(scores)),
        ("majority", assessor.score([majority(outcomes)], num)),
    ):
        measures += [
            (task, f"{metric}_{suffix}_of_{len(outcomes)}", figure)
            for task, metric, figure in measure_alone(found)
            if metric in _VOTED
        ]
    return measures
