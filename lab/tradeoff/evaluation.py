"""Every point of a trade-off curve, unattacked, under T0 and under T2, on the same scenes."""

from __future__ import annotations

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.marks import worst
from codefend.lab.evaluate.tiers.assess import Assessor
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.tiers.uploads import Uploader, union_threat
from codefend.lab.evaluate.tiers.white_box import white_box_rows
from codefend.lab.experiments.report import Row
from codefend.lab.progress import progress

__all__ = ["tradeoff_rows"]


def tradeoff_rows(bench: Bench) -> list[Row]:
    """Clean and T0 on all scenes of the bench, then T2 on as many as its plan says.

    The first point is named as ours, so that its rows hold its lead over every other.

    Args:
        bench: its conditions are the points, after ``none``.
    """
    uploader, assessor = Uploader(bench), Assessor.of(bench)
    clean = uploader.clean(len(bench.scenes))
    attacked = uploader.oblivious(len(bench.scenes))
    threat = union_threat(attacked, Tier.OBLIVIOUS)
    rows: list[Row] = []
    unions = {}
    for condition in progress(bench.conditions, desc="clean and T0", unit="point"):
        rows += assessor.rows(condition, clean.threat, assessor.marks(condition, clean))
        marks = [assessor.marks(condition, uploads) for uploads in attacked]
        unions[condition.name] = worst(marks)
    for condition in bench.conditions:
        rows += assessor.rows(condition, threat, unions[condition.name], unions)
    return rows + white_box_rows(uploader, assessor)
