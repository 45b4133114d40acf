"""Local crops: Li et al. 2025, "A Frustratingly Simple Yet Highly Effective Attack…" (M-Attack)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import best_of, checked, random_start
from codefend.lab.attacks.views import ascend_views, read_boxes

__all__ = ["LocalCrops"]

_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCrops:
    """Signed steps on random resized crops, so that every part of the image carries the attack.

    With the features of a target image as the objective it is the paper's local-to-global matching
    (arXiv 2503.10635, section 3). Deviations: the target is not cropped as well; gradients are
    averaged over ``num_crops`` crops a step, where the paper takes one; the start is random; crops
    begin between pixels and are read bilinearly.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        steps: gradient steps in each restart.
        step_size: length of a step; 2.5 epsilon / steps where None.
        restarts: independent runs; each image keeps its best.
        num_crops: how many a step, drawn anew for each image and step.
        scale: least and greatest share of the image's area that a crop shows.
        bounds: range of pixel values.
    """

    epsilon: float
    steps: int
    step_size: float | None = None
    restarts: int = 1
    num_crops: int = 2
    scale: tuple[float, float] = (0.5, 0.9)
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(epsilon=self.epsilon, steps=self.steps, restarts=self.restarts)
        if self.num_crops < 1 or not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise ValueError(f"crops must be some, of shares {self.scale} in (0, 1]")

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

        def crop(images: Tensor) -> Tensor:
            boxes = self._boxes(len(images), generator).to(images.device)
            return read_boxes(images, boxes, (images.shape[-2], images.shape[-1]))

        return ascend_views(
            random_start(clean, self.epsilon, self.bounds, generator),
            clean,
            objective,
            [crop] * self.num_crops,
            epsilon=self.epsilon,
            steps=self.steps,
            step_size=step_size,
            bounds=self.bounds,
        )

    def _boxes(self, num: int, generator: torch.Generator | None) -> Tensor:
        """(num, 4) top, left, height, width of crops, as shares of the image."""
        draws = torch.rand(num, 4, generator=generator)
        least, greatest = self.scale
        area = least + (greatest - least) * draws[:, 0]
        low, high = (math.log(ratio) for ratio in _RATIOS)
        ratio = torch.exp(low + (high - low) * draws[:, 1])
        sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=1).clamp_max(1.0)
        return torch.cat([(1.0 - sides) * draws[:, 2:], sides], dim=1)
