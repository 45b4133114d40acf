"""T4: attackers who see only a running service's answers, at whatever it discloses."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from codefend.lab.attacks.interface import Attack, Tier
from codefend.lab.attacks.pixels import attack_pixels, decode_png
from codefend.lab.attacks.query import RandomGradientFree, ServiceOracle, SquareAttack, TextTruth
from codefend.lab.evaluate.assess import Assessor, attack_measures
from codefend.lab.evaluate.context import EvalContext
from codefend.lab.evaluate.data import TrueScene
from codefend.lab.evaluate.fidelity import fidelity
from codefend.lab.evaluate.outcomes import Responses
from codefend.lab.evaluate.scores import Scores, measure_alone
from codefend.lab.experiments.craft import AttackBatch, craft
from codefend.lab.experiments.report import Row, Threat
from codefend.lab.experiments.store import Store, digest_of
from codefend.lab.service_client import ServedAnswer, ServiceClient
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS
from codefend.models.codec import encode_image

__all__ = ["query_rows"]

DEFENCE = "codefend"
_NUM_THREADS = 4  # requests under way at once, where answers are scored
_ATTACKS: dict[str, Callable[[float, int], Attack]] = {
    "square": lambda epsilon, looks: SquareAttack(epsilon=epsilon, num_looks=looks),
    "mf-tt": lambda epsilon, looks: RandomGradientFree(epsilon=epsilon, num_looks=looks),
}


def query_rows(assessor: Assessor, services: Sequence[ServiceClient]) -> list[Row]:
    """Both attacks at every budget against each service, scored by what it then answers.

    Args:
        assessor: scores answers and makes rows.
        services: running services, one for each disclosure setting.

    Raises:
        LabError: where one does not answer.
    """
    context = assessor.context
    rows: list[Row] = []
    for service in services:
        run = QueryAttackRun.of(context, service)
        clean = run.scores(assessor, [scene.image for scene in run.scenes])
        undefended = Threat(tier=Tier.QUERY, attack=f"none-{run.disclosure}")
        rows += assessor.row_list(DEFENCE, undefended, measure_alone(clean))
        for name in _ATTACKS:
            for budget in context.tiers.num_queries:
                scores = run.scores(assessor, run.images(name, budget))
                measures = [*measure_alone(scores), *attack_measures(scores, clean)]
                rows += assessor.row_list(DEFENCE, run.threat(name, budget), measures)
    return rows


@dataclass(frozen=True, slots=True)
class QueryAttackRun:
    """One service and the scenes that it is attacked on.

    Attributes:
        context: the evaluation.
        service: who is attacked and asked; its noise is its own.
        scenes: what about.
        defence: which defence it is, by its own word; tells answers on disk apart.
        disclosure: what it shows: `full` or `minimal`.
    """

    context: EvalContext
    service: ServiceClient
    scenes: Sequence[TrueScene]
    defence: str
    disclosure: str

    @classmethod
    def of(cls, context: EvalContext, service: ServiceClient) -> QueryAttackRun:
        """Asks the service once: which defence it is, and what it shows."""
        first = service.ask(encode_image(context.scenes[0].image), None, max_tokens=1)
        scenes = context.scenes[: context.num(Tier.QUERY)]
        return cls(context, service, scenes, first.defence, first.disclosure)

    def threat(self, name: str, budget: int) -> Threat:
        """Queries are counted as steps."""
        return Threat(
            tier=Tier.QUERY,
            attack=f"{name}-{self.disclosure}",
            family="query",
            held_out=True,
            epsilon=self.context.oblivious.epsilon / 255,
            steps=budget,
            restarts=1,
        )

    def scores(self, assessor: Assessor, images: Sequence[np.ndarray]) -> Scores:
        """Scores of uploads, each sent anew for every seed: no caller chooses the service's."""
        store = Store(self.context.out / "outcomes")
        asked = [[question.question for question in scene.questions] for scene in self.scenes]
        outcomes = [
            store.json(
                digest_of(self.defence, list(images), asked, repeat),
                partial(self._responses, images, repeat),
            )
            for repeat in range(self.context.oblivious.seeds)
        ]
        return assessor.score([Responses(**fields) for fields in outcomes], len(images))

    def images(self, name: str, budget: int) -> list[np.ndarray]:
        """Attacked images, re-read from PNG; whatever is on disk is not made again."""
        settings = self.context.oblivious
        epsilon, size = settings.epsilon / 255, self.context.tiers.batch_size_queried

        def attack(batch: AttackBatch[TrueScene]) -> list[bytes]:
            truths = [
                TextTruth(scene.captions, tuple((q.question, q.answer) for q in scene.questions))
                for scene in batch.items
            ]
            oracle = ServiceOracle(self.service, truths, budget=budget)

            def counted(candidates: Tensor) -> Tensor:
                before = sum(oracle.spent)
                losses = oracle(candidates)
                batch.advance(sum(oracle.spent) - before)
                return losses

            return attack_pixels(
                _ATTACKS[name](epsilon, oracle.num_looks),
                [scene.image for scene in batch.items],
                counted,
                epsilon=epsilon,
                generator=torch.Generator().manual_seed(batch.seed),
            )

        return craft(
            Store(self.context.out / "attacked"),
            f"t4-{name}-{self.disclosure}-{budget}",
            self.scenes,
            attack,
            made_by=[name, budget, epsilon, self.defence],
            seed=settings.seed,
            batch_size=size,
            num_steps=size * budget,
        )

    def _responses(self, images: Sequence[np.ndarray], repeat: int) -> dict[str, Any]:
        """What the service says of uploads, and how near to the clean ones it shows them."""
        files = [_sent_anew(encode_image(image), repeat) for image in images]
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            told = list(pool.map(self._ask, files, self.scenes))
        shown = [_pixels(answers[0].purified) for answers in told if answers[0].purified]
        references = [scene.image for scene in self.scenes]
        psnr_db, ssim = fidelity(shown, references) if len(shown) == len(references) else ([], [])
        return {
            "captions": [answers[0].text.strip() for answers in told],
            "answers": [[answer.text.strip() for answer in answers[1:]] for answers in told],
            "psnr_db": psnr_db,
            "ssim": ssim,
        }

    def _ask(self, png: bytes, scene: TrueScene) -> list[ServedAnswer]:
        """The caption, then the answer to every question."""
        caption = self.service.ask(png, None, max_tokens=MAX_CAPTION_TOKENS)
        answers = [
            self.service.ask(png, question.question, max_tokens=MAX_ANSWER_TOKENS)
            for question in scene.questions
        ]
        return [caption, *answers]


def _sent_anew(png: bytes, repeat: int) -> bytes:
    """The same pixels in other bytes: a service may replay what it purified of the same bytes."""
    noted = PngInfo()
    noted.add_text("repeat", str(repeat))
    file = BytesIO()
    Image.open(BytesIO(png)).save(file, "PNG", pnginfo=noted)
    return file.getvalue()


def _pixels(url: str) -> np.ndarray:
    """The pixels of a `data:` URL."""
    return decode_png(base64.b64decode(url.partition(",")[2]))
