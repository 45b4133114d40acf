"""From uploads to rows: the victim is asked behind each defence, and what it says is marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from codefend.lab.evaluate.marks import Marks, mark
from codefend.lab.evaluate.measures import (
    lead,
    measure_alone,
    measure_attacked,
    measure_beside_clean,
)
from codefend.lab.evaluate.outcomes import Condition, Interviewer, Outcome
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.tiers.uploads import Uploads
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.statistics import Measure
from codefend.lab.labels import OURS

__all__ = ["Assessor", "attack_measures"]


@dataclass(frozen=True, slots=True)
class Assessor:
    """Asks, marks and measures; answers are kept on disk, clean marks in memory."""

    bench: Bench
    interview: Interviewer
    _clean: dict[tuple[str, int], Marks] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench) -> Assessor:
        """Keeps answers where T0's evaluation keeps them."""
        return cls(bench, Interviewer(bench.victim, bench.out / "outcomes"))

    def outcomes(self, condition: Condition, uploads: Uploads, num_seeds: int) -> list[Outcome]:
        """What the victim says, once a seed; once in all where the defence draws no noise."""
        scenes = self.bench.scenes[: len(uploads.images)]
        num_seeds = num_seeds if condition.defence.is_random else 1
        return [
            self.interview(condition, uploads.images, scenes, seed=seed)
            for seed in range(num_seeds)
        ]

    def mark(self, outcomes: Sequence[Outcome], num: int) -> Marks:
        """Marks of the first ``num`` scenes, one row an outcome."""
        references = [scene.captions for scene in self.bench.scenes]
        return mark(outcomes, self.bench.scenes[:num], references)

    def marks(self, condition: Condition, uploads: Uploads) -> Marks:
        """Marks over the plan's seeds."""
        outcomes = self.outcomes(condition, uploads, self.bench.oblivious.seeds)
        return self.mark(outcomes, len(uploads.images))

    def clean(self, condition: Condition, num: int) -> Marks:
        """Marks of the first scenes unattacked."""
        if (condition.name, num) not in self._clean:
            images = [scene.image for scene in self.bench.scenes[:num]]
            uploads = Uploads(Threat(tier="clean", attack="none"), images)
            self._clean[condition.name, num] = self.marks(condition, uploads)
        return self._clean[condition.name, num]

    def rows(
        self,
        condition: Condition,
        threat: Threat,
        marks: Marks,
        rivals: Mapping[str, Marks] | None = None,
    ) -> list[Row]:
        """Every figure of one condition under one threat.

        Args:
            condition: what was asked.
            threat: who attacked.
            marks: what came of it.
            rivals: other conditions' marks under the same threat, for ours to be compared with.
        """
        num = marks.cider.shape[1]
        undefended = self.clean(self.bench.conditions[0], num)
        measures = [*measure_alone(marks), *measure_beside_clean(marks, undefended)]
        if threat.attack != "none":
            measures += attack_measures(marks, self.clean(condition, num))
        if condition.name in OURS:
            measures += _leads(marks, rivals or {})
        return self.row_list(condition.name, threat, measures)

    def row_list(self, defence: str, threat: Threat, measures: Sequence[Measure]) -> list[Row]:
        """Measures as rows of this evaluation."""
        return rows_under(
            threat,
            measures,
            defence=defence,
            victim=self.bench.victim.name,
            seeds=self.bench.oblivious.seeds,
        )


def attack_measures(attacked: Marks, clean: Marks) -> list[Measure]:
    """Untargeted success, and the accuracy lost on the same scenes by the same condition."""
    measures = [*measure_attacked(attacked, clean)]
    if attacked.right.size:
        measures.append(("vqa", "accuracy_lost", lead(clean, attacked)))
    return measures


def _leads(ours: Marks, rivals: Mapping[str, Marks]) -> list[Measure]:
    """Over every other defence, on the scenes that both were attacked on."""
    measures: list[Measure] = []
    for name, theirs in rivals.items():
        if name in OURS or not ours.right.size:
            continue
        num = min(ours.cider.shape[1], theirs.cider.shape[1])
        measures.append(("vqa", f"accuracy_lead:{name}", lead(ours.first(num), theirs.first(num))))
    return measures
