"""Attacks through the purifier while it learns: only they teach it what a white-box attacker does.

Adversarial training of the purifier, everything behind it frozen (ADBM, Li et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codefend.lab.attacks.gradient import loss_and_grad

__all__ = ["attack_through"]


def attack_through(
    clean: Tensor,
    start: Tensor,
    epsilon: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    *,
    steps: int,
) -> Tensor:
    """Projected gradient ascent from ``start``, on a loss that may draw its noise anew each step.

    Args:
        clean: (B, 3, H, W) float in [0, 1].
        start: Where to begin; brought into the balls.
        epsilon: (B,) l-infinity radius of each image, as a fraction of the range.
        loss_of: Images to the losses (B,) of what comes out of the purifier.
        steps: Gradient steps, each of 2.5 ε / steps (Madry et al. 2018).

    Returns:
        (B, 3, H, W) on the 256 levels, without a gradient.
    """
    radius = epsilon.view(-1, 1, 1, 1)
    low, high = (clean - radius).clamp_min(0), (clean + radius).clamp_max(1)
    current = torch.clamp(start, low, high)
    for _ in range(steps):
        _, gradients = loss_and_grad(current, loss_of)
        current = torch.clamp(current + 2.5 / steps * radius * gradients.sign(), low, high)
    return (current * 255).round() / 255
