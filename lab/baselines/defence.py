"""What stands between an upload and the model, whether ours or a baseline: pixels to pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from codefend.models.quantise import dequantise, quantise

__all__ = ["NO_DEFENCE", "Defence", "Passage", "defend"]

Passage = Callable[[Tensor, Generator], Tensor]
"""(B, 3, H, W) float in [0, 1] and a source of noise, to the same shape and range."""


@dataclass(frozen=True, slots=True)
class Defence:
    """One defence at one setting.

    Attributes:
        name: what reports call it, the same for all settings.
        setting: which setting, and of learned parts which weights; enough to tell results apart.
        apply: what is deployed; no gradient is needed.
        is_random: whether it draws noise; a deterministic one is run once, not once a seed.
        passages: ways for a white-box attacker's gradient through it, by the name that a report's
            ``gradient`` gives them. Each returns what ``apply`` does, given an equal generator.
        parts: what is applied one after another, where it is a chain.
    """

    name: str
    setting: str
    apply: Passage
    is_random: bool = False
    passages: Mapping[str, Passage] = field(default_factory=dict, compare=False, repr=False)
    parts: tuple[Defence, ...] = field(default=(), compare=False, repr=False)


def _unchanged(images: Tensor, generator: Generator) -> Tensor:
    return images


NO_DEFENCE = Defence("none", "", _unchanged, passages={"exact": _unchanged})


def defend(
    defence: Defence, images: Sequence[np.ndarray], *, seed: int, batch_size: int = 32
) -> list[np.ndarray]:
    """Defends uint8 images of any sizes, rounding the results as the service does.

    Args:
        defence: what to apply.
        images: (H, W, 3) uint8 each.
        seed: of the defence's noise; every batch draws on from the one before.
        batch_size: most images at once; only neighbours of one size share a batch.

    Returns:
        (H, W, 3) uint8 each, in order.
    """
    generator = torch.Generator().manual_seed(seed)
    defended: list[np.ndarray] = []
    for batch in _batches(images, batch_size):
        floats = dequantise(torch.from_numpy(np.stack(batch)))
        defended += list(quantise(defence.apply(floats, generator)).numpy())
    return defended


def _batches(images: Sequence[np.ndarray], batch_size: int) -> list[list[np.ndarray]]:
    batches: list[list[np.ndarray]] = []
    for image in images:
        last = batches[-1] if batches else None
        if last and len(last) < batch_size and last[0].shape == image.shape:
            last.append(image)
        else:
            batches.append([image])
    return batches
