"""Attackers who see only what a running service answers (T4): what they maximise, and how.

``ServiceOracle`` is the objective, how wrong the service's texts are, and counts every request.
``SquareAttack`` and ``RandomGradientFree`` climb it without a gradient.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.gradient import require_valid, where_image
from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.answers import is_match, normalise
from codefend.lab.victims.generate import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS
from codefend.models.codec import encode_image
from codefend.models.quantise import quantise

__all__ = [
    "BudgetSpent",
    "RandomGradientFree",
    "ServiceOracle",
    "SquareAttack",
    "TextTruth",
    "answer_wrongness",
    "caption_wrongness",
    "square_side",
]

# Section 4.1: p is halved at these iterations of 10,000, rescaled to the budget.
_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)


def answer_wrongness(said: str, truth: str) -> float:
    """1 where the answer counts as wrong, else 0."""
    return 0.0 if is_match(said, truth) else 1.0


def caption_wrongness(said: str, references: Sequence[str]) -> float:
    """How far a caption is from the nearest reference, in [0, 1].

    The mean of one minus the F1 score of its words and of the edit distance in words over the
    longer text: the first sees what is named, the second also in which order.

    Raises:
        ValueError: where there is no reference.
    """
    words = normalise(said).split()
    return min(_distance(words, normalise(reference).split()) for reference in references)


def _distance(words: Sequence[str], truth: Sequence[str]) -> float:
    longer = max(len(words), len(truth))
    if longer == 0:
        return 0.0
    shared = (Counter(words) & Counter(truth)).total()
    f1 = 2.0 * shared / (len(words) + len(truth))
    return 0.5 * (1.0 - f1) + 0.5 * _edits(words, truth) / longer


def _edits(words: Sequence[str], truth: Sequence[str]) -> int:
    """Levenshtein's distance in words."""
    row = list(range(len(truth) + 1))
    for number, word in enumerate(words, start=1):
        following = [number]
        for column, (diagonal, above) in enumerate(pairwise(row)):
            replaced = diagonal + (word != truth[column])
            following.append(min(replaced, above + 1, following[-1] + 1))
        row = following
    return row[-1]


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


def square_side(look: int, num_looks: int, side_px: int, first_share: float) -> int:
    """Side of the square at an iteration: round(sqrt(p) * w), at least one pixel.

    Args:
        look: iteration, from 0.
        num_looks: iterations in all.
        side_px: w, side of the image.
        first_share: p at the start, the share of the image's pixels.
    """
    scaled = look * 10_000 / num_looks
    share = first_share / 2 ** sum(scaled > halving for halving in _HALVINGS)
    return max(1, min(side_px, round(math.sqrt(share) * side_px)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareAttack:
    """Random search over squares of colour at the corners of the l-infinity ball.

    Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box…", algorithm 1.
    It asks for losses only, ``num_looks`` times for each image. Against a defence that draws noise
    the kept loss is that of one draw; the paper knows no such defence.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        num_looks: how often the objective may be asked.
        first_share: p at the start.
        bounds: range of pixel values.
    """

    epsilon: float
    num_looks: int
    first_share: float = 0.8
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        require_valid(epsilon=self.epsilon, steps=self.num_looks, restarts=1)
        if not 0 < self.first_share <= 1:
            raise ValueError(f"first_share must be in (0, 1], got {self.first_share}")

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` needs no gradient."""
        clean = images.detach()
        # Section 3.3: start from vertical stripes of width one.
        stripes = _signs((len(clean), 3, 1, clean.shape[-1]), generator).to(clean)
        best = self.bounds.clip(clean + self.epsilon * stripes)
        losses = objective(best)
        for look in range(1, self.num_looks):
            side = square_side(look, self.num_looks, min(clean.shape[-2:]), self.first_share)
            candidate = best.clone()
            for row in range(len(clean)):
                self._paint(candidate[row], clean[row], side, generator)
            new = objective(candidate)
            better = new > losses
            best = where_image(better, candidate, best)
            losses = torch.where(better, new, losses)
        return best

    def _paint(
        self, candidate: Tensor, clean: Tensor, side: int, generator: Generator | None
    ) -> None:
        """Gives one square of one image (3, H, W) a new sign in each channel (algorithm 2)."""
        height, width = clean.shape[-2:]
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        place = (slice(None), slice(top, top + side), slice(left, left + side))
        changed = clean[place] + self.epsilon * _signs((3, 1, 1), generator).to(clean)
        candidate[place] = self.bounds.clip(changed)


def _signs(shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    """Independent signs, -1 or 1."""
    return 2.0 * torch.randint(2, shape, generator=generator).float() - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomGradientFree:
    """Climbs the mean of finite differences along random signs, ``steps`` times.

    MF-tt of Zhao et al. 2023, "On Evaluating Adversarial Robustness of Large Vision-Language
    Models", section 3.2, equation 4: matching text with text by random gradient-free estimation.

    The gradient at x is estimated from num_probes uploads x + sigma * d, d uniform over signs, as
    the mean of (f(x + sigma * d) - f(x)) * d; the step goes along its sign. Deviations: the loss is
    the wrongness of the text instead of CLIP's similarity to a target text; probes stay in the
    ball, as every upload must; the best look is returned, not the last.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        num_looks: how often the objective may be asked, probes and centres together.
        steps: steps; the paper takes 8.
        step_size: length of a step; epsilon / steps where None, 1/255 in the paper.
        probe_size: sigma, as a fraction of the range.
        bounds: range of pixel values.
    """

    epsilon: float
    num_looks: int
    steps: int = 8
    step_size: float | None = None
    probe_size: float = 8 / 255
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        require_valid(epsilon=self.epsilon, steps=self.steps, restarts=1)
        if self.num_probes < 1:
            raise ValueError(
                f"num_looks must be at least {2 * self.steps + 1}, got {self.num_looks}"
            )

    @property
    def num_probes(self) -> int:
        """Probes at each step: what the centres, first and last included, leave over."""
        return (self.num_looks - self.steps - 1) // self.steps

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` needs no gradient."""
        clean = images.detach()
        step_size = self.epsilon / self.steps if self.step_size is None else self.step_size
        current, losses = clean, objective(clean)
        best, best_losses = current, losses
        for _ in range(self.steps):
            # 1. Probe around the centre; a probe may itself be the best look so far.
            slope = torch.zeros_like(clean)
            for _ in range(self.num_probes):
                signs = 2.0 * torch.randint(2, clean.shape, generator=generator).to(clean) - 1.0
                probe = self.bounds.project(current + self.probe_size * signs, clean, self.epsilon)
                probed = objective(probe)
                slope += (probed - losses)[:, None, None, None] * signs
                best = where_image(probed > best_losses, probe, best)
                best_losses = torch.maximum(probed, best_losses)
            # 2. Step along the sign of the estimate; where no probe said anything, stay.
            moved = current + step_size * slope.sign()
            current = self.bounds.project(moved, clean, self.epsilon)
            losses = objective(current)
            best = where_image(losses > best_losses, current, best)
            best_losses = torch.maximum(losses, best_losses)
        return best
