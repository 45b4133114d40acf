"""What gradient attacks share: gradients per image, random starts, restarts, the best kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lab.attacks.interface import Bounds, Objective

__all__ = ["ascend", "best_of", "checked", "random_start", "where_image"]


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
    unit = torch.rand(clean.shape, generator=generator, dtype=clean.dtype)
    return bounds.clip(clean + epsilon * (2.0 * unit.to(clean.device) - 1.0))


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


def checked(*, epsilon: float, steps: int, restarts: int) -> None:
    """Refuses hyper-parameters that mean nothing.

    Raises:
        ValueError: for a negative radius, or no step or run at all.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be positive, got {steps} and {restarts}")
