"""What stands between an upload and the model, whether ours or a baseline: pixels to pixels.

With it stands how a white-box attacker's gradient gets through a defence that has none, or too
large a one, and one defence behind another, such as a codec behind a purifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from codefend.models.quantise import dequantise, quantise

__all__ = [
    "NO_DEFENCE",
    "Defence",
    "Forward",
    "chained",
    "defend",
    "recomputed",
    "straight_through",
    "with_gradient_of",
]


Forward = Callable[[Tensor, Generator], Tensor]
"""(B, 3, H, W) float in [0, 1] and a source of noise, to the same shape and range."""

_NEAREST_FIRST = ("exact", "surrogate", "bpda")


@dataclass(frozen=True, slots=True)
class Defence:
    """One defence at one setting.

    Attributes:
        name: what reports call it, the same for all settings.
        setting: which setting, and of learned parts which weights; enough to tell results apart.
        apply: what is deployed; no gradient is needed.
        is_random: whether it draws noise; a deterministic one is run once, not once a seed.
        gradient_paths: ways for a white-box attacker's gradient through it, by the name that a
            report's ``gradient`` gives them: ``exact``, ``bpda``, or ``surrogate`` where a smooth
            proxy lends its gradient. Each returns what ``apply`` does, given an equal generator.
        parts: what is applied one after another, where it is a chain.
    """

    name: str
    setting: str
    apply: Forward
    is_random: bool = False
    gradient_paths: Mapping[str, Forward] = field(default_factory=dict, compare=False, repr=False)
    parts: tuple[Defence, ...] = field(default=(), compare=False, repr=False)

    @property
    def gradients(self) -> list[str]:
        """The names of its gradient paths, the nearest to the derivative first."""
        return [name for name in _NEAREST_FIRST if name in self.gradient_paths]


def _unchanged(images: Tensor, generator: Generator) -> Tensor:
    return images


NO_DEFENCE = Defence("none", "", _unchanged, gradient_paths={"exact": _unchanged})


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


def with_gradient_of(value: Tensor, proxy: Tensor) -> Tensor:
    """``value``, bit for bit, with the gradient of ``proxy``; both of one shape and finite."""
    return value.detach() + (proxy - proxy.detach())


def straight_through(apply: Forward) -> Forward:
    """BPDA: forward the defence, backward the identity.

    Athalye et al. 2018, "Obfuscated Gradients Give a False Sense of Security", section 4.1, for
    defences that return about what they were given.

    Args:
        apply: the defence; it may round, sort or encode.
    """

    def forward(images: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            defended = apply(images.detach(), generator)
        return with_gradient_of(defended, images)

    return forward


def recomputed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """``function(*arguments)``, its activations computed again in the backward pass, not kept.

    What a purifier's ``run`` takes: memory then grows by one image a step, not by the network's
    activations. The noise is already in the arguments, which are kept: the recomputation sees the
    very noise of the forward pass (gradients of published defences were wrong where it was drawn
    anew; Kassis et al. 2025, "DiffBreak").
    """
    value: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return value


def chained(parts: Sequence[Defence]) -> Defence:
    """Applies defences in turn; between them images are whole levels, as the service has them.

    A white-box attacker gets through every part exactly where it can be, and else by each of the
    ways that the part has. Rounding between parts is passed as the identity.

    Args:
        parts: at least one.

    Raises:
        ValueError: where there is none.
    """
    if not parts:
        raise ValueError("a chain needs at least one defence")
    if len(parts) == 1:
        return parts[0]

    def apply(images: Tensor, generator: Generator) -> Tensor:
        for part in parts:
            images = _rounded(part.apply(images, generator))
        return images

    inexact = [part for part in parts if "exact" not in part.gradient_paths]
    gradients = dict.fromkeys(name for part in inexact for name in part.gradient_paths) or (
        "exact",
    )
    return Defence(
        "+".join(part.name for part in parts),
        " ".join(part.setting for part in parts if part.setting),
        apply,
        is_random=any(part.is_random for part in parts),
        gradient_paths={name: _through(parts, name) for name in gradients},
        parts=tuple(parts),
    )


def _rounded(images: Tensor) -> Tensor:
    return dequantise(quantise(images), images.dtype).contiguous()


def _through(parts: Sequence[Defence], gradient: str) -> Forward:
    ways = [part.gradient_paths[_nearest(part, gradient)] for part in parts]

    def forward(images: Tensor, generator: Generator) -> Tensor:
        for way in ways:
            found = way(images, generator)
            images = with_gradient_of(_rounded(found.detach()), found)
        return images

    return forward


def _nearest(part: Defence, gradient: str) -> str:
    order = ("exact", gradient, *part.gradients)
    return next(name for name in order if name in part.gradient_paths)
