"""From an attack's floats to the PNG that a stranger uploads, and back; all scores use this."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codefend.lab.attacks.budgets import Ball
from codefend.lab.attacks.interface import Attack, Budgeted, Objective
from codefend.models.codec import encode_image
from codefend.models.quantise import dequantise

__all__ = ["attack_pixels", "counted", "decode_png", "quantise_within"]


def quantise_within(adversarial: Tensor, clean: np.ndarray, epsilon: float) -> np.ndarray:
    """Rounds to whole levels, towards the clean image where rounding would leave the ball.

    Args:
        adversarial: (B, 3, H, W) float in [0, 1].
        clean: (B, H, W, 3) uint8.
        epsilon: l-infinity radius as a fraction of the range.

    Returns:
        (B, H, W, 3) uint8, at most floor(255 epsilon) levels from ``clean``.
    """
    return Ball(epsilon).quantise(adversarial, clean)


def decode_png(data: bytes) -> np.ndarray:
    """A PNG file to (H, W, 3) uint8."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def counted(objective: Objective, on_step: Callable[[], object]) -> Objective:
    """The same objective; `on_step` is called whenever it was asked."""

    def ask(images: Tensor) -> Tensor:
        losses = objective(images)
        on_step()
        return losses

    return ask


def attack_pixels(
    attack: Attack,
    images: Sequence[np.ndarray],
    objective: Objective,
    *,
    epsilon: float,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> list[bytes]:
    """Attacks uint8 images of one size and returns what would be uploaded.

    Args:
        attack: the algorithm; one that is ``Budgeted`` is rounded within its own budget.
        images: (H, W, 3) uint8 each, all of one size.
        objective: per-image losses of the batch, to maximise.
        epsilon: the l-infinity radius that rounding must not leave, where the attack has no
            budget of its own.
        generator: source of every random choice.
        device: where the search runs; best where the victim is.

    Returns:
        A PNG file for each image.
    """
    clean = np.stack(list(images))
    start = dequantise(torch.from_numpy(clean)).contiguous().to(device)
    adversarial = attack(start, objective, generator=generator)
    budget = attack.budget if isinstance(attack, Budgeted) else Ball(epsilon)
    return [encode_image(pixels) for pixels in budget.quantise(adversarial, clean)]
