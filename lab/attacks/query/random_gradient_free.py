"""MF-tt: Zhao et al. 2023, "On Evaluating Adversarial Robustness of Large Vision-Language Models".

Section 3.2, equation 4: matching text with text, by random gradient-free estimation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import checked, where_image

__all__ = ["RandomGradientFree"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomGradientFree:
    """Climbs the mean of finite differences along random signs, ``steps`` times.

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
        checked(epsilon=self.epsilon, steps=self.steps, restarts=1)
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
