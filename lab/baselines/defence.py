"""What stands between an upload and the model, whether ours or a baseline: pixels to pixels.

With it stands how a white-box attacker's gradient gets through a defence that has none, or too
large a one, one defence behind another, such as a codec behind a purifier, and one of two.
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
    "PerImage",
    "chained",
    "chosen",
    "defend",
    "recomputed",
    "straight_through",
    "with_gradient_of",
]


Forward = Callable[[Tensor, Generator], Tensor]
"""(B, 3, H, W) float in [0, 1] and a source of noise, to the same shape and range."""

PerImage = Callable[[Tensor, Generator], Tensor]
"""Uploads (B, 3, H, W) float in [0, 1] and a source of noise, to a value (B,) of each."""

_EVADING = "evading"
"""The way of an attacker who is also to pass as clean, so that the milder of two is applied."""
_NEAREST_FIRST = (_EVADING, "exact", "surrogate", "bpda")


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
            ``evading``, of a choice, returns what its milder part does.
        penalties: of those ways that cost the attacker something, by the same names: what he
            subtracts from his losses.
        parts: what is applied one after another, where it is a chain.
    """

    name: str
    setting: str
    apply: Forward
    is_random: bool = False
    gradient_paths: Mapping[str, Forward] = field(default_factory=dict, compare=False, repr=False)
    penalties: Mapping[str, PerImage] = field(default_factory=dict, compare=False, repr=False)
    parts: tuple[Defence, ...] = field(default=(), compare=False, repr=False)

    @property
    def gradients(self) -> list[str]:
        """The names of its gradient paths: evading, then the nearest to the derivative first."""
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
        ValueError: where there is none, or one of several is a choice: what it would be chosen by
            is the upload.
    """
    if not parts:
        raise ValueError("a chain needs at least one defence")
    if len(parts) == 1:
        return parts[0]
    if any(part.penalties for part in parts):
        raise ValueError("a choice of two defences is no part of a chain: let it choose chains")

    def apply(images: Tensor, generator: Generator) -> Tensor:
        for part in parts:
            images = _rounded(part.apply(images, generator))
        return images

    return Defence(
        "+".join(part.name for part in parts),
        " ".join(part.setting for part in parts if part.setting),
        apply,
        is_random=any(part.is_random for part in parts),
        gradient_paths={name: _through(parts, name) for name in _ways(parts)},
        parts=tuple(parts),
    )


def chosen(
    is_alarmed: PerImage, excess: PerImage, mild: Defence, harsh: Defence, *, setting: str
) -> Defence:
    """Applies a mild defence to most images, and a harsh one to those that raise an alarm.

    Choosing how much to purify by how attacked an image looks is DiffCAP's idea (Fu et al. 2025),
    which stops its diffusion there; here two defences are chosen between. A white-box attacker
    gets through it by evading the alarm, and so through the mild one (after Carlini & Wagner 2017,
    "Adversarial Examples Are Not Easily Detected", section 3), or by each of the ways through
    whichever is applied.

    Args:
        is_alarmed: (B,) bool of uploads.
        excess: (B,) by how much, at least 0, uploads are short of passing as clean, with its
            gradient.
        mild: what is applied without an alarm.
        harsh: what is applied after one.
        setting: what tells this alarm from others.
    """
    both = (mild, harsh)

    def whichever(ways: Sequence[Forward]) -> Forward:
        def forward(images: Tensor, generator: Generator) -> Tensor:
            alarmed = is_alarmed(images.detach(), generator)
            defended = torch.zeros_like(images)
            for way, is_its in zip(ways, (~alarmed, alarmed), strict=True):
                if bool(is_its.any()):
                    defended = defended.index_put((is_its,), way(images[is_its], generator))
            return defended

        return forward

    return Defence(
        "/".join(part.name for part in both),
        " ".join([setting, *(part.setting for part in both if part.setting)]),
        whichever([part.apply for part in both]),
        is_random=True,
        gradient_paths={
            _EVADING: mild.gradient_paths[mild.gradients[0]],
            **{name: whichever(_nearest_ways(both, name)) for name in _ways(both)},
        },
        penalties={_EVADING: excess},
    )


def _ways(parts: Sequence[Defence]) -> list[str]:
    """The names of all ways through the parts that are not exact; exact where all are."""
    inexact = [part for part in parts if "exact" not in part.gradient_paths]
    return list(dict.fromkeys(way for part in inexact for way in part.gradient_paths)) or ["exact"]


def _nearest_ways(parts: Sequence[Defence], gradient: str) -> list[Forward]:
    return [part.gradient_paths[_nearest(part, gradient)] for part in parts]


def _rounded(images: Tensor) -> Tensor:
    return dequantise(quantise(images), images.dtype).contiguous()


def _through(parts: Sequence[Defence], gradient: str) -> Forward:
    ways = _nearest_ways(parts, gradient)

    def forward(images: Tensor, generator: Generator) -> Tensor:
        for way in ways:
            found = way(images, generator)
            images = with_gradient_of(_rounded(found.detach()), found)
        return images

    return forward


def _nearest(part: Defence, gradient: str) -> str:
    order = ("exact", gradient, *part.gradients)
    return next(name for name in order if name in part.gradient_paths)
