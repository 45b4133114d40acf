"""Gaussian noise alone: the randomised control of every white-box figure, never a recommendation.

Cohen et al. 2019, "Certified Adversarial Robustness via Randomized Smoothing", without its vote.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence

__all__ = ["gaussian_noise"]


def gaussian_noise(deviation: float) -> Defence:
    """Adds fresh normal noise and clips.

    Args:
        deviation: standard deviation, as a fraction of the range.

    Raises:
        ValueError: where it is not positive.
    """
    if deviation <= 0:
        raise ValueError(f"the deviation must be positive, got {deviation}")

    def apply(images: Tensor, generator: Generator) -> Tensor:
        # Drawn on the CPU, so that a seed means the same noise on every device.
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
        return (images + deviation * noise.to(images.device)).clamp(0.0, 1.0)

    setting = f"deviation={deviation:g}"
    return Defence("noise", setting, apply, is_random=True, passages={"exact": apply})
