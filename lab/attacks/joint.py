"""Joint attack on image and question: Zhang et al. 2022, "Towards Adversarial Attack on…".

The text side is ``RewordedLoss``, a loss whose questions the attacker may reword a little; the
image side is signed ascent under the wording chosen last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.gradient import BallAttack, loss_and_grad
from codefend.lab.attacks.interface import Objective
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.likelihood import AnswerScore, DialogueLoss
from codefend.lab.victims.victim import Victim

__all__ = ["JointAttack", "Rewordable", "RewordedLoss", "rewordings"]

_FRAMES = ("please answer: {}", "look at the picture. {}")


@runtime_checkable
class Rewordable(Protocol):
    """An objective whose questions can be reworded."""

    def reword(self, images: Tensor) -> None:
        """Takes the wording under which the losses of ``images`` are highest."""
        ...


@dataclass(frozen=True, kw_only=True)
class JointAttack(BallAttack):
    """Rewords the questions and attacks the image under that wording, in turn (Co-Attack).

    Deviations: Co-Attack changes the text once, then the image; here both change ``rounds`` times,
    and the text once more at the end. Its text attack replaces one token by BERT's choice; here
    it chooses among given rewordings (``rewordings``). The objective is the language model's.

    An objective that cannot be reworded is attacked through the image alone. The steps are shared
    out among the rounds.

    Attributes:
        rounds: how often the questions are reworded before the last time.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds must be positive, got {self.rounds}")

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; afterwards ``objective`` is worded for what is returned."""
        best = super().__call__(images, objective, generator=generator)
        _reword(objective, best)
        return best

    def run(
        self, clean: Tensor, objective: Objective, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """See ``GradientAttack.run``."""
        current = self.start(clean, generator)
        period = -(-self.steps // self.rounds)
        for number in range(self.steps):
            if number % period == 0:
                _reword(objective, current)
            current = self.move(current, loss_and_grad(current, objective)[1], clean)
        _reword(objective, current)
        with torch.no_grad():
            return current, objective(current).float()


def _reword(objective: Objective, images: Tensor) -> None:
    if isinstance(objective, Rewordable):
        objective.reword(images)


def rewordings(prompt: str, *, num_typos: int = 4, generator: Generator | None = None) -> list[str]:
    """The prompt itself, and small changes of it that keep its meaning.

    Each changes one thing: words around the prompt, its last mark left out, or two neighbouring
    letters swapped within one word of at least five (shorter words too easily become others).

    Args:
        prompt: what is asked.
        num_typos: most swaps that are offered.
        generator: source of the choice of swaps.
    """
    found = [prompt, *(frame.format(prompt) for frame in _FRAMES), prompt.rstrip("?.! ")]
    places = [
        place
        for word in re.finditer(r"[A-Za-z]{5,}", prompt)
        for place in range(word.start() + 1, word.end() - 2)
        if prompt[place] != prompt[place + 1]
    ]
    for index in torch.randperm(len(places), generator=generator)[:num_typos].tolist():
        place = places[index]
        swapped = prompt[place + 1] + prompt[place]
        found.append(prompt[:place] + swapped + prompt[place + 2 :])
    return list(dict.fromkeys(text for text in found if text))


class RewordedLoss:
    """The mean score of an image's answers under the wording chosen last."""

    def __init__(
        self,
        victims: Sequence[Victim],
        truths: Sequence[Sequence[Dialogue]],
        score: AnswerScore,
        *,
        generator: Generator | None = None,
        on_step: Callable[[], object] = lambda: None,
    ) -> None:
        """Draws the rewordings; until ``reword`` is called every prompt is the original.

        Args:
            victims: whose losses are averaged.
            truths: for each image, its questions with their right answers.
            score: what an answer contributes.
            generator: source of the typos.
            on_step: called whenever it was asked.
        """
        self._score = score
        self._on_step = on_step
        self._victims = victims
        self._candidates = [
            [
                [Dialogue(text, d.answer) for text in rewordings(d.prompt, generator=generator)]
                for d in group
            ]
            for group in truths
        ]
        self._choose([[0] * len(group) for group in truths])

    @property
    def prompts(self) -> list[tuple[str, ...]]:
        """For each image, its questions as they are worded now, in order."""
        return [tuple(dialogue.prompt for dialogue in group) for group in self._chosen]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to losses (B,), on the images' device."""
        losses = torch.stack([loss(images) for loss in self._losses]).mean(dim=0)
        self._on_step()
        return losses

    @torch.no_grad()
    def reword(self, images: Tensor) -> None:
        """Takes, for each question, the wording under which its answer scores highest."""
        offered = [[d for asked in group for d in asked] for group in self._candidates]
        losses = [DialogueLoss(victim, offered, self._score) for victim in self._victims]
        scores = torch.stack([loss.answers(images).float().cpu() for loss in losses]).mean(dim=0)
        counts = [len(asked) for group in self._candidates for asked in group]
        best = iter([int(share.argmax()) for share in torch.split(scores, counts)])
        self._choose([[next(best) for _ in group] for group in self._candidates])

    def _choose(self, choices: Sequence[Sequence[int]]) -> None:
        self._chosen = [
            [asked[index] for asked, index in zip(group, indices, strict=True)]
            for group, indices in zip(self._candidates, choices, strict=True)
        ]
        self._losses = [DialogueLoss(victim, self._chosen, self._score) for victim in self._victims]
