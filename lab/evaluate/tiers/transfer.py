"""T1: images attacked through the attacker's own purifier, shown to every defence."""

from __future__ import annotations

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.marks import Marks, worst
from codefend.lab.evaluate.tiers.assess import Assessor
from codefend.lab.evaluate.tiers.uploads import Uploader, union_threat
from codefend.lab.experiments.report import Row

__all__ = ["transfer_rows"]


def transfer_rows(uploader: Uploader, assessor: Assessor) -> list[Row]:
    """Every condition under each goal, and under the worst of them where there are several."""
    bench = uploader.bench
    num = min(bench.plan.num_scenes[Tier.TRANSFER], len(bench.scenes))
    sets = uploader.transferred(num)
    rows: list[Row] = []
    rivals: dict[str, list[Marks]] = {condition.name: [] for condition in bench.conditions}
    for uploads in sets:
        marks = {c.name: assessor.marks(c, uploads) for c in bench.conditions}
        for condition in bench.conditions:
            own = marks[condition.name]
            rivals[condition.name].append(own)
            rows += assessor.rows(condition, uploads.threat, own, marks)
    if len(sets) > 1:
        threat = union_threat(sets, Tier.TRANSFER)
        union = {name: worst(found) for name, found in rivals.items()}
        for condition in bench.conditions:
            rows += assessor.rows(condition, threat, union[condition.name], union)
    return rows
