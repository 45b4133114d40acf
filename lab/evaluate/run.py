"""The evaluation itself: attacks, defends, asks, marks; whatever is on disk is not done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import AttackConfig, Goal
from codefend.lab.evaluate.attacked import AttackedImages
from codefend.lab.evaluate.marks import Marks, mark, worst
from codefend.lab.evaluate.measures import (
    lead,
    measure_alone,
    measure_attacked,
    measure_beside_clean,
)
from codefend.lab.evaluate.outcomes import Condition, Interviewer
from codefend.lab.evaluate.prior import QuestionPrior
from codefend.lab.evaluate.targets import target_captions
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.experiments.report import Row, Threat, rows_under
from codefend.lab.experiments.statistics import Measure, wilson
from codefend.lab.labels import OURS, UNION
from codefend.lab.progress import progress
from codefend.lab.victims.answers import is_match
from codefend.lab.victims.victim import Victim

__all__ = ["Evaluation", "Plan", "prior_measures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is attacked, how hard, and how often the defence's noise is drawn.

    Attributes:
        tier: ``clean`` attacks nothing; ``t0`` is the oblivious attacker.
        attack: name of the attack.
        goals: what the untargeted attacks move. All at the main radius, where the worst of them is
            marked answer by answer; the first alone at the others and on validation scenes.
        steps: gradient steps in each restart.
        restarts: independent runs.
        epsilon: main l-infinity radius in levels of 255, on all scenes.
        num_scenes_targeted: how many of them are also attacked towards another scene's caption.
        other_epsilons: further radii, on the first ``num_scenes_other`` scenes.
        num_scenes_other: see above; sanity noise uses as many.
        seeds: how many seeds of the defence's noise.
        seed: of the attack's random starts and of the choice of targets.
    """

    tier: Tier = Tier.OBLIVIOUS
    attack: str = "apgd"
    goals: tuple[Goal, ...] = ("language", "margin")
    steps: int = 100
    restarts: int = 1
    epsilon: int = 8
    num_scenes_targeted: int = 256
    other_epsilons: tuple[int, ...] = (4, 16)
    num_scenes_other: int = 128
    seeds: int = 3
    seed: int = 0

    @property
    def main_attack(self) -> AttackConfig:
        """The first untargeted attack at the main radius: settings are chosen under it."""
        return self.config(self.epsilon, self.goals[0])

    def config(self, epsilon: int, goal: Goal, *, targeted: bool = False) -> AttackConfig:
        """The plan's attack at a radius in levels of 255."""
        return AttackConfig(
            name=self.attack,
            epsilon=epsilon / 255,
            steps=self.steps,
            restarts=self.restarts,
            goal=goal,
            targeted=targeted,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class _ImageSet:
    """Uploads of one kind: clean, or attacked in one way."""

    attack: AttackConfig | None
    images: list[np.ndarray]
    targets: list[str] | None = None
    label_of_attack: str = ""

    @property
    def attack_label(self) -> str:
        if self.attack is None:
            return "none"
        return self.label_of_attack or self.attack.label

    @property
    def label(self) -> str:
        if self.attack is None:
            return "clean"
        goal = "targeted" if self.attack.targeted else "untargeted"
        return f"{self.attack_label} {goal} {round(self.attack.epsilon * 255)}/255"


class Evaluation:
    """One victim, its test scenes, and the conditions under which it is asked about them."""

    def __init__(
        self,
        victim: Victim,
        scenes: Sequence[TrueScene],
        conditions: Sequence[Condition],
        plan: Plan,
        out: Path,
        *,
        attacker: Victim | None = None,
    ) -> None:
        """Prepares an evaluation.

        Args:
            victim: who is asked; the first condition must leave it undefended.
            scenes: what it is asked about; captions of all are CIDEr's references.
            conditions: ``none`` first.
            plan: what is attacked.
            out: folder of attacked images and outcomes.
            attacker: whose gradients are used, where not the victim's: a copy in lower precision.

        Raises:
            ValueError: where the first condition is not ``none``.
        """
        if not conditions or conditions[0].name != "none":
            raise ValueError("the first condition must be the undefended one, named none")
        self._victim, self._scenes, self._plan = victim, scenes, plan
        self._conditions = conditions
        self._references = [scene.captions for scene in scenes]
        self._attacked = AttackedImages(attacker or victim, out / "attacked")
        self._interview = Interviewer(victim, out / "outcomes")

    def rows(self) -> list[Row]:
        """Every figure of the plan; makes what is missing on disk."""
        sets = list(self._image_sets())
        clean: dict[str, Marks] = {}
        rivals: list[dict[str, Marks]] = []
        rows: list[Row] = []
        for image_set in sets:
            marks = {
                condition.name: self._marks(condition, image_set)
                for condition in progress(self._conditions, desc=image_set.label)
                if self._is_asked(condition, image_set)
            }
            if image_set.attack is None:
                clean = marks
            elif self._is_main(image_set):
                rivals.append(marks)
            for name, its_marks in marks.items():
                rows += self._rows(name, image_set, its_marks, marks, clean)
        return rows + self._worst_rows(rivals, clean)

    def _is_main(self, image_set: _ImageSet) -> bool:
        """Whether it is one of the untargeted attacks at the main radius."""
        plan = self._plan
        attacks = [plan.config(plan.epsilon, goal) for goal in plan.goals]
        return image_set.attack in attacks

    def _worst_rows(self, rivals: Sequence[dict[str, Marks]], clean: dict[str, Marks]) -> list[Row]:
        """What is left of each answer under the worst of the attacks at the main radius."""
        if len(rivals) < 2:
            return []
        images = [scene.image for scene in self._scenes]
        image_set = _ImageSet(self._plan.main_attack, images, label_of_attack=UNION)
        marks = {name: worst([rival[name] for rival in rivals]) for name in rivals[0]}
        return [
            row
            for name, its_marks in marks.items()
            for row in self._rows(name, image_set, its_marks, marks, clean)
        ]

    def _image_sets(self) -> Iterator[_ImageSet]:
        plan = self._plan
        yield _ImageSet(None, [scene.image for scene in self._scenes])
        if plan.tier is Tier.CLEAN:
            return
        targets = target_captions(self._scenes, seed=plan.seed)
        sizes = [(plan.epsilon, len(self._scenes))]
        sizes += [(other, plan.num_scenes_other) for other in plan.other_epsilons]
        for epsilon, num in sizes:
            scenes = self._scenes[:num]
            for goal in plan.goals if epsilon == plan.epsilon else plan.goals[:1]:
                config = plan.config(epsilon, goal)
                yield _ImageSet(config, self._attacked(config, scenes))
        config = plan.config(plan.epsilon, "language", targeted=True)
        wanted = targets[: plan.num_scenes_targeted]
        scenes = self._scenes[: plan.num_scenes_targeted]
        yield _ImageSet(config, self._attacked(config, scenes, wanted), wanted)
        for epsilon in sorted({plan.epsilon, *plan.other_epsilons}):
            noise = AttackConfig(
                name="uniform_noise", epsilon=epsilon / 255, steps=0, seed=plan.seed
            )
            scenes = self._scenes[: plan.num_scenes_other]
            yield _ImageSet(noise, self._attacked(noise, scenes))

    @staticmethod
    def _is_asked(condition: Condition, image_set: _ImageSet) -> bool:
        """Sanity noise is shown to the undefended model alone."""
        is_noise = image_set.attack is not None and image_set.attack.name == "uniform_noise"
        return condition.name == "none" or not is_noise

    def _marks(self, condition: Condition, image_set: _ImageSet) -> Marks:
        num_seeds = self._plan.seeds if condition.defence.is_random else 1
        scenes = self._scenes[: len(image_set.images)]
        outcomes = [
            self._interview(
                condition,
                image_set.images,
                scenes,
                seed=seed,
                with_answers=image_set.targets is None,
            )
            for seed in range(num_seeds)
        ]
        return mark(outcomes, scenes, self._references, image_set.targets)

    def _rows(
        self,
        name: str,
        image_set: _ImageSet,
        marks: Marks,
        others: dict[str, Marks],
        clean: dict[str, Marks],
    ) -> list[Row]:
        num = len(image_set.images)
        measures: list[Measure] = [*measure_alone(marks)]
        if image_set.attack is not None and image_set.targets is None:
            measures += measure_attacked(marks, clean[name].first(num))
        if image_set.targets is None:
            measures += measure_beside_clean(marks, clean["none"].first(num))
        if name in OURS and marks.right.size:
            rivals = (rival for rival in others if rival not in OURS)
            measures += [
                ("vqa", f"accuracy_lead:{rival}", lead(marks, others[rival])) for rival in rivals
            ]
        threat = Threat(tier=Tier.CLEAN, attack="none")
        if image_set.attack is not None:
            threat = Threat.of(image_set.attack, tier=self._plan.tier, label=image_set.attack_label)
        return rows_under(
            threat,
            measures,
            defence=name,
            victim=self._victim.name,
            seeds=self._plan.seeds,
        )


def prior_measures(prior: QuestionPrior, scenes: Sequence[TrueScene]) -> list[Measure]:
    """Accuracy of answering without the image, overall and by type of question."""
    asked = [question for scene in scenes for question in scene.questions]
    right = np.array([is_match(prior.answer(question), question.answer) for question in asked])
    kinds = np.array([question.kind for question in asked])
    measures: list[Measure] = [
        ("vqa", "question_only_accuracy", wilson(float(right.mean()), len(right)))
    ]
    for kind in sorted(set(kinds)):
        share = right[kinds == kind]
        figure = wilson(float(share.mean()), len(share))
        measures.append(("vqa", f"question_only_accuracy:{kind}", figure))
    return measures
