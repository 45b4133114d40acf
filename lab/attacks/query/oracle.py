"""What a query attack maximises: how wrong the service's texts are. Every request is counted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from codefend.lab.attacks.query.service import ServiceClient
from codefend.lab.attacks.query.wrongness import answer_wrongness, caption_wrongness
from codefend.models.codec import encode_image
from codefend.models.quantise import quantise

__all__ = ["BudgetSpent", "ServiceOracle", "TextTruth"]

MAX_ANSWER_TOKENS = 8
MAX_CAPTION_TOKENS = 48


class BudgetSpent(Exception):
    """An attack asked for more queries than it was given."""


@dataclass(frozen=True, slots=True)
class TextTruth:
    """What the attacker knows to be right of one image.

    Attributes:
        captions: right captions; none where none is asked for.
        questions: pairs of question and right answer.
    """

    captions: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        """Refuses a truth that nothing can be asked about."""
        if self.num_queries == 0:
            raise ValueError("an attacker needs a caption or a question to ask for")

    @property
    def asked(self) -> list[tuple[str | None, str]]:
        """Every question with its answer; None asks for a caption."""
        return [*([(None, "")] if self.captions else []), *self.questions]

    @property
    def num_queries(self) -> int:
        """HTTP requests that it takes to look at one image once."""
        return len(self.asked)


class ServiceOracle:
    """An ``Objective`` of text alone: no gradient, no probabilities, fresh noise in every answer.

    The loss of an image is the mean over its answers of whether each is wrong, plus the wrongness
    of its caption: in [0, 2].
    """

    def __init__(
        self,
        service: ServiceClient,
        truths: Sequence[TextTruth],
        *,
        budget: int,
        num_threads: int = 4,
    ) -> None:
        """Nothing is asked yet.

        Args:
            service: who is asked.
            truths: of each image of the batch.
            budget: most queries (HTTP requests) for each image.
            num_threads: requests under way at once.
        """
        self._service, self._truths, self._budget = service, truths, budget
        self._num_threads = num_threads
        self.spent = [0] * len(truths)

    @property
    def num_looks(self) -> int:
        """How often each image may be looked at; the one with most questions decides for all."""
        return self._budget // max(truth.num_queries for truth in self._truths)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to losses (B,) float32; pixels are rounded, as uploads are.

        Raises:
            BudgetSpent: before anything is sent that the budget does not hold.
            LabError: where the service does not answer.
        """
        for row, truth in enumerate(self._truths):
            if self.spent[row] + truth.num_queries > self._budget:
                raise BudgetSpent(f"image {row} has {self._budget - self.spent[row]} queries left")
            self.spent[row] += truth.num_queries
        files = [encode_image(pixels) for pixels in quantise(images.detach().cpu()).numpy()]
        # Question by question, not image by image: what is sent at once are different images, so
        # that a service which replays purified images has each by the time that it is sent again.
        jobs = [
            (row, question, truth)
            for asked in zip_longest(*(known.asked for known in self._truths))
            for row, pair in enumerate(asked)
            if pair is not None
            for question, truth in [pair]
        ]
        with ThreadPoolExecutor(self._num_threads) as pool:
            wrong = list(pool.map(lambda job: self._look(files[job[0]], *job), jobs))
        losses = torch.zeros(len(self._truths))
        for (row, _, _), wrongness in zip(jobs, wrong, strict=True):
            losses[row] += wrongness
        return losses.to(images.device)

    def _look(self, png: bytes, row: int, question: str | None, truth: str) -> float:
        known = self._truths[row]
        if question is None:
            said = self._service.ask(png, None, max_tokens=MAX_CAPTION_TOKENS).text
            return caption_wrongness(said, known.captions)
        said = self._service.ask(png, question, max_tokens=MAX_ANSWER_TOKENS).text
        return answer_wrongness(said, truth) / len(known.questions)
