"""Transfer from surrogates: Lu et al. 2023, "Set-level Guidance Attack" (SGA), its image side."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import best_of, checked, random_start
from codefend.lab.attacks.views import View, ascend_views, read_boxes

__all__ = ["EnsembleTransfer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleTransfer:
    """Signed steps on the mean over scales of an objective, itself the mean over surrogates.

    That mean is ``objectives.mean_of`` (Liu et al. 2017, "Delving into Transferable Adversarial
    Examples"; they add up probabilities, here losses). Scales are SGA's: noise, a resize, and back
    to the image's own size. Deviations: bilinear instead of bicubic; whichever objective is given
    instead of SGA's image-text loss; no caption sets, no text attack.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        steps: gradient steps in each restart.
        step_size: length of a step; 2.5 epsilon / steps where None.
        restarts: independent runs; each image keeps its best.
        scales: sizes at which the image is also seen; may be none.
        noise: standard deviation of what is added before an image is resized.
        bounds: range of pixel values.
    """

    epsilon: float
    steps: int
    step_size: float | None = None
    restarts: int = 1
    scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5)
    noise: float = 0.05
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(epsilon=self.epsilon, steps=self.steps, restarts=self.restarts)
        if self.noise < 0 or any(scale <= 0 for scale in self.scales):
            raise ValueError("scales must be positive, and noise not negative")

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``."""
        run = partial(self._run, images.detach(), objective, generator)
        return best_of(run for _ in range(self.restarts))

    def _run(
        self, clean: Tensor, objective: Objective, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        step_size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        views: list[View] = [lambda images: images]
        views += [partial(self._rescale, scale, generator) for scale in self.scales]
        return ascend_views(
            random_start(clean, self.epsilon, self.bounds, generator),
            clean,
            objective,
            views,
            epsilon=self.epsilon,
            steps=self.steps,
            step_size=step_size,
            bounds=self.bounds,
        )

    def _rescale(self, scale: float, generator: torch.Generator | None, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        draws = torch.randn(images.shape, generator=generator, dtype=images.dtype)
        noisy = images + self.noise * draws.to(images.device)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=images.device).expand(len(images), 4)
        size = (max(1, int(scale * height)), max(1, int(scale * width)))
        return read_boxes(self.bounds.clip(read_boxes(noisy, whole, size)), whole, (height, width))
