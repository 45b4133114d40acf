"""What gradient attacks share: gradients per image, random starts, steps, the best kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective

__all__ = ["ascend", "best_of", "checked", "climb", "random_start", "uniform", "where_image"]


def ascend(images: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Losses (B,) and their gradients (B, 3, H, W); one image's loss never moves another's."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        losses = objective(images)
        (gradients,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach().float(), gradients.to(images.dtype)


def where_image(mask: Tensor, chosen: Tensor, otherwise: Tensor) -> Tensor:
    """Per image (B,) choice between two batches (B, 3, H, W)."""
    return torch.where(mask[:, None, None, None], chosen, otherwise)


def random_start(
    clean: Tensor, epsilon: float, bounds: Bounds, generator: torch.Generator | None
) -> Tensor:
    """A uniform draw from the l-infinity ball of radius ``epsilon``, clipped to the bounds."""
    return bounds.clip(clean + epsilon * uniform(clean, generator))


def uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform in [-1, 1), of the shape, dtype and device of ``like``; drawn on the CPU."""
    unit = torch.rand(like.shape, generator=generator, dtype=like.dtype)
    return 2.0 * unit.to(like.device) - 1.0


def climb(
    start: Tensor,
    render: Callable[[Tensor], Tensor],
    step: Callable[[Tensor, Tensor], Tensor],
    objective: Objective,
    *,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Gradient ascent in whatever parametrises an attack; each image keeps its best point.

    Args:
        start: (B, ...) parameters; no image depends on another's.
        render: parameters to images (B, 3, H, W), differentiably.
        step: parameters and gradients to the next parameters, within the attack's bound.
        objective: losses (B,) to maximise.
        steps: how many.

    Returns:
        The best images and their losses (B,).
    """

    def look(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            point = point.detach().requires_grad_(True)
            images = render(point)
            losses = objective(images)
            (gradients,) = torch.autograd.grad(losses.sum(), point)
        return images.detach(), losses.detach().float(), gradients.to(point.dtype)

    current = start
    best, highest, gradients = look(current)
    for _ in range(steps):
        current = step(current, gradients)
        images, losses, gradients = look(current)
        best = where_image(losses > highest, images, best)
        highest = torch.maximum(losses, highest)
    return best, highest


def best_of(
    runs: Iterable[Callable[[], tuple[Tensor, Tensor]]],
) -> Tensor:
    """The images with the highest loss over several runs, image by image.

    Args:
        runs: each gives images (B, 3, H, W) and their losses (B,).
    """
    best_images: Tensor | None = None
    best_losses: Tensor | None = None
    for run in runs:
        images, losses = run()
        if best_images is None or best_losses is None:
            best_images, best_losses = images, losses
            continue
        better = losses > best_losses
        best_images = where_image(better, images, best_images)
        best_losses = torch.maximum(losses, best_losses)
    if best_images is None:
        raise ValueError("an attack needs at least one run")
    return best_images


def checked(*, epsilon: float = 0.0, steps: int, restarts: int) -> None:
    """Refuses hyper-parameters that mean nothing.

    Raises:
        ValueError: for a negative radius, or no step or run at all.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be positive, got {steps} and {restarts}")
