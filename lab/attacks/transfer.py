"""Attacks that carry over to what they were not made on: from views, surrogates and other scenes.

Transfer rests on the mean over many: crops of an image (M-Attack), its scales under several models
(SGA), or other images altogether (a universal perturbation).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.gradient import BallAttack, loss_and_grad, uniform
from codefend.lab.attacks.interface import Objective

__all__ = ["EnsembleTransfer", "LocalCrops", "UniversalPerturbation", "View", "read_boxes"]

View = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) to as many of the same size, differentiably; each draw may be another."""

_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True, kw_only=True)
class _ViewedAttack(BallAttack):
    """Signed steps along the mean of the views' gradients.

    The views of a step differ from those of the last, so no iterate is the best for certain: the
    last is kept, under the objective's own loss.
    """

    @abstractmethod
    def views(self, generator: Generator | None) -> Sequence[View]:
        """What the objective is asked on at each step."""

    def run(
        self, clean: Tensor, objective: Objective, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """See ``GradientAttack.run``."""
        current = self.start(clean, generator)
        views = self.views(generator)
        for _ in range(self.steps):
            gradients = torch.zeros_like(current)
            for view in views:
                gradients += loss_and_grad(current, partial(_seen, objective, view))[1]
            current = self.move(current, gradients, clean)
        with torch.no_grad():
            return current, objective(current).float()


def _seen(objective: Objective, view: View, images: Tensor) -> Tensor:
    return objective(view(images))


@dataclass(frozen=True, kw_only=True)
class LocalCrops(_ViewedAttack):
    """Signed steps on random resized crops, so that every part of the image carries the attack.

    Li et al. 2025, "A Frustratingly Simple Yet Highly Effective Attack…" (M-Attack). With the
    features of a target image as the objective it is the paper's local-to-global matching
    (arXiv 2503.10635, section 3). Deviations: the target is not cropped as well; gradients are
    averaged over ``num_crops`` crops a step, where the paper takes one; the start is random; crops
    begin between pixels and are read bilinearly.

    Attributes:
        num_crops: how many a step, drawn anew for each image and step.
        scale: least and greatest share of the image's area that a crop shows.
    """

    num_crops: int = 2
    scale: tuple[float, float] = (0.5, 0.9)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        super().__post_init__()
        if self.num_crops < 1 or not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise ValueError(f"crops must be some, of shares {self.scale} in (0, 1]")

    def views(self, generator: Generator | None) -> Sequence[View]:
        """As many crops, each drawn when it is looked at."""

        def crop(images: Tensor) -> Tensor:
            boxes = self._boxes(len(images), generator).to(images.device)
            return read_boxes(images, boxes, (images.shape[-2], images.shape[-1]))

        return [crop] * self.num_crops

    def _boxes(self, num: int, generator: Generator | None) -> Tensor:
        """(num, 4) top, left, height, width of crops, as shares of the image."""
        draws = torch.rand(num, 4, generator=generator)
        least, greatest = self.scale
        area = least + (greatest - least) * draws[:, 0]
        low, high = (math.log(ratio) for ratio in _RATIOS)
        ratio = torch.exp(low + (high - low) * draws[:, 1])
        sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=1).clamp_max(1.0)
        return torch.cat([(1.0 - sides) * draws[:, 2:], sides], dim=1)


@dataclass(frozen=True, kw_only=True)
class EnsembleTransfer(_ViewedAttack):
    """Signed steps on the mean over scales of an objective, itself the mean over surrogates.

    The image side of Lu et al. 2023, "Set-level Guidance Attack" (SGA). The mean over surrogates is
    ``objectives.mean_of`` (Liu et al. 2017, "Delving into Transferable Adversarial Examples"; they
    add up probabilities, here losses). Scales are SGA's: noise, a resize, and back to the image's
    own size. Deviations: bilinear instead of bicubic; whichever objective is given instead of SGA's
    image-text loss; no caption sets, no text attack.

    Attributes:
        scales: sizes at which the image is also seen; may be none.
        noise: standard deviation of what is added before an image is resized.
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5)
    noise: float = 0.05

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        super().__post_init__()
        if self.noise < 0 or any(scale <= 0 for scale in self.scales):
            raise ValueError("scales must be positive, and noise not negative")

    def views(self, generator: Generator | None) -> Sequence[View]:
        """The image itself, then each scale of it, noised anew."""
        scaled = [partial(self._rescale, scale, generator) for scale in self.scales]
        return [lambda images: images, *scaled]

    def _rescale(self, scale: float, generator: Generator | None, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        draws = torch.randn(images.shape, generator=generator, dtype=images.dtype)
        noisy = images + self.noise * draws.to(images.device)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=images.device).expand(len(images), 4)
        size = (max(1, int(scale * height)), max(1, int(scale * width)))
        return read_boxes(self.bounds.clip(read_boxes(noisy, whole, size)), whole, (height, width))


@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation(BallAttack):
    """One perturbation for many scenes, never applied to a scene that it was learned on.

    Moosavi-Dezfooli et al. 2017, "Universal Adversarial Perturbations". Called as an attack, it
    splits the batch in two and gives each half what was learned on the other, so a perturbation
    knows half a batch of scenes: larger batches make it stronger. ``learn`` and ``apply`` do the
    same with scenes of one's own. Of several restarts each half keeps the perturbation with the
    highest mean loss.

    Deviation: signed steps on the mean gradient, each image's normalised (Shafahi et al. 2020,
    "Universal Adversarial Training", section 3), instead of one minimal step an image.
    """

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
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
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
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
        generator: Generator | None,
    ) -> Tensor:
        """A perturbation for each group (B,) of images: (groups, 3, H, W)."""
        shares = torch.nn.functional.one_hot(group).to(clean).T  # (groups, B)
        shares = shares / shares.sum(dim=1, keepdim=True)
        step_size = self.step_length(self.epsilon)
        best = clean.new_zeros(len(shares), *clean.shape[1:])
        highest = torch.full((len(shares),), -torch.inf, device=clean.device)
        for _ in range(self.restarts):
            deltas = self.epsilon * uniform(best, generator)
            for step in range(self.steps + 1):
                # 1. Every image under its group's perturbation; the mean loss of each group.
                losses, gradients = loss_and_grad(self.apply(clean, deltas[group]), objective)
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


def read_boxes(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of images at another size: bilinear, with a wider filter where that shrinks them.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, 4) top, left, height, width as shares of the image.
        size: height and width of the result.

    Returns:
        (B, C, *size).
    """
    top, left, tall, wide = boxes.double().unbind(dim=1)
    rows = _filters(top, tall, images.shape[-2], size[0]).to(images)
    columns = _filters(left, wide, images.shape[-1], size[1]).to(images)
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def _filters(start: Tensor, extent: Tensor, num_in: int, num_out: int) -> Tensor:
    """(B, num_out, num_in): the triangle filter of one axis; rows sum to one."""
    scale = extent * num_in / num_out
    places = torch.arange(num_out, dtype=start.dtype, device=start.device) + 0.5
    centers = start[:, None] * num_in + places * scale[:, None] - 0.5
    centers = centers.clamp(0, num_in - 1)
    distances = (centers[..., None] - torch.arange(num_in, device=start.device)).abs()
    weights = (1.0 - distances / scale.clamp_min(1.0)[:, None, None]).clamp_min(0.0)
    return weights / weights.sum(dim=2, keepdim=True)
