"""Universal perturbation: Moosavi-Dezfooli et al. 2017, "Universal Adversarial Perturbations"."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import ascend, checked, uniform

__all__ = ["UniversalPerturbation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UniversalPerturbation:
    """One perturbation for many scenes, never applied to a scene that it was learned on.

    Called as an attack, it splits the batch in two and gives each half what was learned on the
    other, so a perturbation knows half a batch of scenes: larger batches make it stronger.
    ``learn`` and ``apply`` do the same with scenes of one's own.

    Deviation: signed steps on the mean gradient, each image's normalised (Shafahi et al. 2020,
    "Universal Adversarial Training", section 3), instead of one minimal step an image.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        steps: gradient steps in each restart.
        step_size: length of a step; 2.5 epsilon / steps where None.
        restarts: independent runs; each half keeps the perturbation with the highest mean loss.
        bounds: range of pixel values.
    """

    epsilon: float
    steps: int
    step_size: float | None = None
    restarts: int = 1
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(epsilon=self.epsilon, steps=self.steps, restarts=self.restarts)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``.

        Raises:
            ValueError: for a single image, which has no others to learn from.
        """
        if len(images) < 2:
            raise ValueError("a universal perturbation needs other images: attack at least two")
        half = torch.arange(len(images), device=images.device) % 2
        learned = self._learn(images.detach(), objective, half, generator)
        return self.apply(images.detach(), learned[1 - half])

    def learn(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """One perturbation (1, 3, H, W) from images (B, 3, H, W) with their objective."""
        together = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return self._learn(images.detach(), objective, together, generator)

    def apply(self, images: Tensor, perturbation: Tensor) -> Tensor:
        """``images`` with a perturbation (1 or B, 3, H, W), within the range."""
        return self.bounds.project(images + perturbation, images, self.epsilon)

    def _learn(
        self,
        clean: Tensor,
        objective: Objective,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """A perturbation for each group (B,) of images: (groups, 3, H, W)."""
        shares = torch.nn.functional.one_hot(group).to(clean).T  # (groups, B)
        shares = shares / shares.sum(dim=1, keepdim=True)
        step_size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        best = clean.new_zeros(len(shares), *clean.shape[1:])
        highest = torch.full((len(shares),), -torch.inf, device=clean.device)
        for _ in range(self.restarts):
            deltas = self.epsilon * uniform(best, generator)
            for step in range(self.steps + 1):
                # 1. Every image under its group's perturbation; the mean loss of each group.
                losses, gradients = ascend(self.apply(clean, deltas[group]), objective)
                means = shares.float() @ losses
                best = torch.where((means > highest)[:, None, None, None], deltas, best)
                highest = torch.maximum(means, highest)
                # 2. Along the mean of normalised gradients, so that no image drowns the others.
                if step < self.steps:
                    sizes = gradients.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
                    mean = torch.einsum("gb,bchw->gchw", shares, gradients / sizes)
                    deltas = deltas + step_size * mean.sign()
                    deltas = deltas.clamp(-self.epsilon, self.epsilon)
        return best
