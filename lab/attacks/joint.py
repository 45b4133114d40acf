"""Joint attack on image and question: Zhang et al. 2022, "Towards Adversarial Attack on…"."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import ascend, best_of, checked, random_start

__all__ = ["JointAttack", "Rewordable"]


@runtime_checkable
class Rewordable(Protocol):
    """An objective whose questions can be reworded."""

    def reword(self, images: Tensor) -> None:
        """Takes the wording under which the losses of ``images`` are highest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JointAttack:
    """Rewords the questions and attacks the image under that wording, in turn (Co-Attack).

    Deviations: Co-Attack changes the text once, then the image; here both change ``rounds`` times,
    and the text once more at the end. Its text attack replaces one token by BERT's choice; here
    it chooses among given rewordings (``rewordings``). The objective is the language model's.

    An objective that cannot be reworded is attacked through the image alone.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        steps: gradient steps in each restart, shared out among the rounds.
        step_size: length of a step; 2.5 epsilon / steps where None.
        restarts: independent runs; each image keeps its best.
        rounds: how often the questions are reworded before the last time.
        bounds: range of pixel values.
    """

    epsilon: float
    steps: int
    step_size: float | None = None
    restarts: int = 1
    rounds: int = 3
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(epsilon=self.epsilon, steps=self.steps, restarts=self.restarts)
        if self.rounds < 1:
            raise ValueError(f"rounds must be positive, got {self.rounds}")

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; afterwards ``objective`` is worded for what is returned."""
        run = partial(self._run, images.detach(), objective, generator)
        best = best_of(run for _ in range(self.restarts))
        _reword(objective, best)
        return best

    def _run(
        self, clean: Tensor, objective: Objective, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        step_size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        current = random_start(clean, self.epsilon, self.bounds, generator)
        period = -(-self.steps // self.rounds)
        for number in range(self.steps):
            if number % period == 0:
                _reword(objective, current)
            gradients = ascend(current, objective)[1]
            moved = current + step_size * gradients.sign()
            current = self.bounds.project(moved, clean, self.epsilon)
        _reword(objective, current)
        with torch.no_grad():
            return current, objective(current).float()


def _reword(objective: Objective, images: Tensor) -> None:
    if isinstance(objective, Rewordable):
        objective.reword(images)
