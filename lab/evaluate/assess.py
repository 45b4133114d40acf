"""From uploads to rows: the victim is asked behind each defence, and what it says is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from codefend.lab.attacks.interface import Tier
from codefend.lab.evaluate.context import EvalContext
from codefend.lab.evaluate.outcomes import Condition, Responses, VictimResponder
from codefend.lab.evaluate.scores import (
    Scores,
    captions_lead,
    lead,
    measure_alone,
    measure_attacked,
    measure_beside_clean,
    score,
)
from codefend.lab.evaluate.uploads import Uploads
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.statistics import Measure
from codefend.lab.labels import OURS

__all__ = ["Assessor", "attack_measures"]


@dataclass(frozen=True, slots=True)
class Assessor:
    """Asks, scores and measures; answers are kept on disk, clean scores in memory."""

    context: EvalContext
    respond: VictimResponder
    _clean: dict[tuple[str, int], Scores] = field(default_factory=dict)

    @classmethod
    def of(cls, context: EvalContext) -> Assessor:
        """Keeps answers in the folder of the report."""
        size = context.oblivious.batch_size_asked
        return cls(context, VictimResponder.within(context.victim, context.out, batch_size=size))

    def outcomes(self, condition: Condition, uploads: Uploads, seeds: int) -> list[Responses]:
        """What the victim says, once a seed; once in all where the defence draws no noise."""
        scenes = self.context.scenes[: len(uploads.images)]
        with_answers = uploads.targets is None
        return self.respond(
            condition, uploads.images, scenes, seeds=seeds, with_answers=with_answers
        )

    def score(
        self, outcomes: Sequence[Responses], num: int, targets: Sequence[str] | None = None
    ) -> Scores:
        """Scores of the first `num` scenes, one row an outcome."""
        references = [scene.captions for scene in self.context.scenes]
        return score(outcomes, self.context.scenes[:num], references, targets)

    def scores(self, condition: Condition, uploads: Uploads) -> Scores:
        """Scores over the settings' seeds."""
        outcomes = self.outcomes(condition, uploads, self.context.oblivious.seeds)
        return self.score(outcomes, len(uploads.images), uploads.targets)

    def all_scores(
        self, uploads: Uploads, conditions: Iterable[Condition] | None = None
    ) -> dict[str, Scores]:
        """Scores by condition, of all where none are named."""
        conditions = self.context.conditions if conditions is None else conditions
        return {condition.name: self.scores(condition, uploads) for condition in conditions}

    def clean(self, condition: Condition, num: int) -> Scores:
        """Scores of the first scenes unattacked."""
        if (condition.name, num) not in self._clean:
            images = [scene.image for scene in self.context.scenes[:num]]
            uploads = Uploads(Threat(tier=Tier.CLEAN, attack="none"), images)
            self._clean[condition.name, num] = self.scores(condition, uploads)
        return self._clean[condition.name, num]

    def rows(
        self,
        condition: Condition,
        threat: Threat,
        scores: Scores,
        rivals: Mapping[str, Scores] | None = None,
        *,
        num_clean: int | None = None,
    ) -> list[Row]:
        """Every figure of one condition under one threat.

        Args:
            condition: what was asked.
            threat: who attacked.
            scores: what came of it.
            rivals: other conditions' scores under the same threat, for ours to be compared with.
            num_clean: scenes that were asked about unattacked, at once, where those are more than
                were attacked; what was lost of them is then not counted.
        """
        num = scores.num_scenes
        undefended, clean = (
            self.clean(each, num_clean or num).first(num)
            for each in (self.context.conditions[0], condition)
        )
        measures = [*measure_alone(scores)]
        if not threat.targeted or scores.right.size:
            measures += measure_beside_clean(scores, undefended)
            if threat.attack != "none":
                measures += attack_measures(scores, clean, with_loss=num_clean is None)
        if condition.name in OURS:
            measures += _leads(scores, rivals or {})
        return self.row_list(condition.name, threat, measures)

    def all_rows(
        self, threat: Threat, scores: Mapping[str, Scores], *, num_clean: int | None = None
    ) -> list[Row]:
        """Rows of every condition that was scored, each of ours compared with the others."""
        return [
            row
            for condition in self.context.conditions
            if condition.name in scores
            for row in self.rows(
                condition, threat, scores[condition.name], scores, num_clean=num_clean
            )
        ]

    def row_list(self, defence: str, threat: Threat, measures: Iterable[Measure]) -> list[Row]:
        """Measures as rows of this evaluation."""
        return rows_under(
            threat,
            measures,
            defence=defence,
            victim=self.context.victim.name,
            seeds=self.context.oblivious.seeds,
        )


def attack_measures(attacked: Scores, clean: Scores, *, with_loss: bool = True) -> list[Measure]:
    """Untargeted success, and the accuracy lost on the same scenes by the same condition.

    Where captions are all that is asked for, the CIDEr lost.
    """
    measures = [*measure_attacked(attacked, clean)]
    if with_loss and attacked.right.size:
        measures.append(("vqa", "accuracy_lost", lead(clean, attacked)))
    elif with_loss and attacked.cider.size:
        measures.append(("caption", "cider_lost", captions_lead(clean, attacked)))
    return measures


def _leads(ours: Scores, rivals: Mapping[str, Scores]) -> list[Measure]:
    """Over every other defence, on the scenes that both were attacked on."""
    measures: list[Measure] = []
    for name, theirs in rivals.items():
        if name in OURS or not ours.right.size:
            continue
        num = min(ours.num_scenes, theirs.num_scenes)
        measures.append(("vqa", f"accuracy_lead:{name}", lead(ours.first(num), theirs.first(num))))
    return measures
