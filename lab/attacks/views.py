"""Signed ascent on the mean over changed views of an image: crops, scales; transfer rests on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import ascend

__all__ = ["View", "ascend_views", "read_boxes"]

View = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) to as many of the same size, differentiably; each draw may be another."""


def ascend_views(
    start: Tensor,
    clean: Tensor,
    objective: Objective,
    views: Sequence[View],
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    bounds: Bounds,
) -> tuple[Tensor, Tensor]:
    """Signed steps in the l-infinity ball along the mean of the views' gradients.

    The views of a step differ from those of the last, so no iterate is the best for certain: the
    last is kept.

    Args:
        start: (B, 3, H, W) where the search begins.
        clean: center of the ball.
        objective: losses (B,) to maximise.
        views: what the objective is asked on at each step.
        epsilon: radius of the ball.
        steps: how many.
        step_size: length of a step.
        bounds: range of pixel values.

    Returns:
        The last images and the objective's own losses (B,) of them.
    """
    current = start
    for _ in range(steps):
        gradients = torch.zeros_like(current)
        for view in views:
            gradients += ascend(current, partial(_seen, objective, view))[1]
        current = bounds.project(current + step_size * gradients.sign(), clean, epsilon)
    with torch.no_grad():
        return current, objective(current).float()


def _seen(objective: Objective, view: View, images: Tensor) -> Tensor:
    return objective(view(images))


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
