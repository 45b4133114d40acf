"""T3: the same upload sent ten times: what it brings on average, at worst, and by majority."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.measures import measure_alone
from codefend.lab.evaluate.outcomes import Condition, Outcome
from codefend.lab.evaluate.tiers.assess import Assessor
from codefend.lab.evaluate.tiers.uploads import Uploader, Uploads
from codefend.lab.evaluate.tiers.white_box import num_white_box, white_box_uploads
from codefend.lab.evaluate.votes import majority, worst_repeat
from codefend.lab.experiments.report import Row
from codefend.lab.experiments.statistics import Measure

__all__ = ["resubmission_rows"]

_VOTED = frozenset({"accuracy", "cider", "objects_named"})


def resubmission_rows(uploader: Uploader, assessor: Assessor, tiers: Collection[Tier]) -> list[Row]:
    """Every condition under repeated uploads of clean images and of each tier's attacks.

    Args:
        uploader: makes the uploads.
        assessor: asks.
        tiers: whose images are sent again; T0's always are.
    """
    bench = uploader.bench
    num = min(bench.plan.num_scenes[Tier.RESUBMISSION], len(bench.scenes))
    shared = [uploader.clean(num), *uploader.oblivious(num)]
    if Tier.TRANSFER in tiers:
        shared += uploader.transferred(min(num, bench.plan.num_scenes[Tier.TRANSFER]))
    rows: list[Row] = []
    for condition in bench.conditions:
        own = _own_uploads(uploader, condition, num) if Tier.WHITE_BOX in tiers else []
        for uploads in [*shared, *own]:
            rows += _rows(assessor, condition, uploads)
    return rows


def _own_uploads(uploader: Uploader, condition: Condition, num: int) -> list[Uploads]:
    return white_box_uploads(uploader, condition, min(num, num_white_box(uploader, condition)))


def _rows(assessor: Assessor, condition: Condition, uploads: Uploads) -> list[Row]:
    num_repeats = assessor.bench.plan.num_repeats
    outcomes = assessor.outcomes(condition, uploads, num_repeats)
    if len(outcomes) < num_repeats:  # without noise every repeat is the first
        outcomes = outcomes * num_repeats
    made = uploads.threat
    label = "none" if made.tier == Tier.CLEAN else f"{made.tier}/{made.attack}"
    threat = replace(made, tier=Tier.RESUBMISSION, attack=label)
    measures = _measures(assessor, outcomes, len(uploads.images))
    rows = assessor.row_list(condition.name, threat, measures)
    return [replace(row, seeds=num_repeats) for row in rows]


def _measures(assessor: Assessor, outcomes: Sequence[Outcome], num: int) -> list[Measure]:
    marks = assessor.mark(outcomes, num)
    measures = [*measure_alone(marks)]
    for suffix, its_marks in (
        ("worst", worst_repeat(marks)),
        ("majority", assessor.mark([majority(outcomes)], num)),
    ):
        measures += [
            (task, f"{metric}_{suffix}_of_{len(outcomes)}", figure)
            for task, metric, figure in measure_alone(its_marks)
            if metric in _VOTED
        ]
    return measures
