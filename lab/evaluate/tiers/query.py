"""T4: attackers who see only a running service's answers, at whatever it discloses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codefend.lab.attacks.interface import Attack, Tier
from codefend.lab.attacks.pixels import attack_pixels
from codefend.lab.attacks.query import RandomGradientFree, ServiceOracle, SquareAttack, TextTruth
from codefend.lab.evaluate.kept import are_kept, kept_images
from codefend.lab.evaluate.marks import Marks
from codefend.lab.evaluate.measures import measure_alone
from codefend.lab.evaluate.tiers.assess import Assessor, attack_measures
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.tiers.served import ServedInterviewer
from codefend.lab.evaluate.truth import TrueScene, scene_digest
from codefend.lab.experiments.report import Row, Threat
from codefend.lab.experiments.store import digest_of
from codefend.lab.progress import progress
from codefend.lab.service_client import ServiceClient
from codefend.models.codec import encode_image

__all__ = ["query_rows"]

DEFENCE = "codefend"
_ATTACKS: dict[str, Callable[[float, int], Attack]] = {
    "square": lambda epsilon, looks: SquareAttack(epsilon=epsilon, num_looks=looks),
    "mf-tt": lambda epsilon, looks: RandomGradientFree(epsilon=epsilon, num_looks=looks),
}


def query_rows(assessor: Assessor, services: Sequence[ServiceClient]) -> list[Row]:
    """Both attacks at every budget against each service, scored by what it then answers.

    Args:
        assessor: marks answers and makes rows.
        services: running services, one for each disclosure setting.

    Raises:
        LabError: where one does not answer.
    """
    bench = assessor.bench
    num = min(bench.plan.num_scenes[Tier.QUERY], len(bench.scenes))
    rows: list[Row] = []
    for service in services:
        siege = _Siege.of(bench, service, num)
        clean = siege.marks(assessor, [scene.image for scene in bench.scenes[:num]])
        undefended = Threat(tier=Tier.QUERY, attack=f"none-{siege.disclosure}")
        rows += assessor.row_list(DEFENCE, undefended, [*measure_alone(clean)])
        for name in _ATTACKS:
            for budget in bench.plan.num_queries:
                marks = siege.marks(assessor, siege.images(name, budget))
                measures = [*measure_alone(marks), *attack_measures(marks, clean)]
                rows += assessor.row_list(DEFENCE, siege.threat(name, budget), measures)
    return rows


@dataclass(frozen=True, slots=True)
class _Siege:
    """One service and the scenes that it is attacked on."""

    bench: Bench
    service: ServiceClient
    scenes: Sequence[TrueScene]
    defence: str
    disclosure: str

    @classmethod
    def of(cls, bench: Bench, service: ServiceClient, num: int) -> _Siege:
        """Asks the service once: which defence it is, and what it shows."""
        first = service.ask(encode_image(bench.scenes[0].image), None, max_tokens=1)
        return cls(bench, service, bench.scenes[:num], first.defence, first.disclosure)

    def threat(self, name: str, budget: int) -> Threat:
        """Queries are counted as steps."""
        return Threat(
            tier=Tier.QUERY,
            attack=f"{name}-{self.disclosure}",
            family="query",
            held_out=True,
            epsilon=self.bench.oblivious.epsilon / 255,
            steps=budget,
            restarts=1,
        )

    def marks(self, assessor: Assessor, images: Sequence[np.ndarray]) -> Marks:
        """Marks of uploads, each sent anew for every seed."""
        interview = ServedInterviewer(self.service, self.defence, self.bench.out / "outcomes")
        outcomes = [
            interview(images, self.scenes, repeat=repeat)
            for repeat in range(self.bench.oblivious.seeds)
        ]
        return assessor.mark(outcomes, len(images))

    def images(self, name: str, budget: int) -> list[np.ndarray]:
        """Attacked images, re-read from PNG; whatever is on disk is not made again."""
        size, images = self.bench.plan.batch_size_queried, []
        starts = range(0, len(self.scenes), size)
        label = f"t4-{name}-{self.disclosure}-{budget}"
        looks = sum(self._truths(start)[1] for start in starts) * budget
        with progress(total=looks, desc=label, unit="query") as bar:
            for number, start in enumerate(starts):
                images += self._chunk(name, budget, start, number, label, bar.update)
        return images

    def _truths(self, start: int) -> tuple[list[TextTruth], int]:
        """What the attacker knows of one chunk, and how many images that is."""
        chunk = self.scenes[start : start + self.bench.plan.batch_size_queried]
        truths = [
            TextTruth(scene.captions, tuple((q.question, q.answer) for q in scene.questions))
            for scene in chunk
        ]
        return truths, len(truths)

    def _chunk(
        self,
        name: str,
        budget: int,
        start: int,
        number: int,
        label: str,
        advance: Callable[[int], object],
    ) -> list[np.ndarray]:
        plan = self.bench.oblivious
        epsilon = plan.epsilon / 255
        truths, num = self._truths(start)
        images = [scene.image for scene in self.scenes[start : start + num]]
        digest = scene_digest(self.scenes[start : start + num])
        key = digest_of(name, budget, epsilon, plan.seed, self.defence, number, digest)

        def make() -> list[bytes]:
            oracle = ServiceOracle(self.service, truths, budget=budget)

            def counted(candidates: Tensor) -> Tensor:
                before = sum(oracle.spent)
                losses = oracle(candidates)
                advance(sum(oracle.spent) - before)
                return losses

            return attack_pixels(
                _ATTACKS[name](epsilon, oracle.num_looks),
                images,
                counted,
                epsilon=epsilon,
                generator=torch.Generator().manual_seed(1_000_003 * plan.seed + number),
            )

        folder = self.bench.out / "attacked" / label / key
        if are_kept(folder, num):
            advance(num * budget)
        return kept_images(folder, num, make)
