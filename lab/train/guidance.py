"""The task-specific part of a purifier's loss, and the attacks on it while the purifier learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from codefend.lab.train.courses import Course, Guide
from codefend.lab.train.pairs import EPSILON_RANGE
from codefend.lab.train.through import attack_through

__all__ = ["attack_course", "feature_distance"]


def feature_distance(guide: Guide, purified: Tensor, wanted: Tensor) -> Tensor:
    """(B,) mean over places of the distance, relative to the length of the clean feature.

    Not squared: a few attacks that throw features far would drown all the others.
    """
    features = guide.encoder_features(purified.clamp(0, 1)).float()
    distance = torch.linalg.vector_norm(features - wanted, dim=-1)
    length = torch.linalg.vector_norm(wanted, dim=-1).clamp_min(1e-3)
    relative: Tensor = distance / length
    return relative.mean(dim=1)


def attack_course(
    course: Course,
    network: nn.Module,
    purify: Callable[[Tensor], Tensor],
    clean: Tensor,
    start: Tensor,
    wanted: Tensor,
    *,
    steps: int,
) -> Tensor:
    """The rows of a batch that are attacked through the purifier as it is.

    Args:
        course: Says which rows.
        network: In training; it takes no gradients meanwhile.
        purify: Images to purified ones, with fresh noise.
        clean: (B, 3, H, W) float in [0, 1], the whole batch.
        start: Where the attacks begin, the whole batch.
        wanted: Features of the clean images.
        steps: Gradient steps.

    Returns:
        (rows, 3, H, W) on the 256 levels.
    """
    rows, guide = course.through, course.guide
    radius = torch.empty(rows.stop - rows.start, device=clean.device)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        return attack_through(
            clean[rows],
            start[rows],
            radius.uniform_(*EPSILON_RANGE),
            lambda images: feature_distance(guide, purify(images), wanted[rows]),
            steps=steps,
        )
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
