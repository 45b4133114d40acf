"""How a white-box attacker's gradient gets through a defence that has none, or too large a one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from codefend.lab.baselines.defence import Passage

__all__ = ["recomputed", "straight_through", "with_gradient_of"]


def with_gradient_of(value: Tensor, proxy: Tensor) -> Tensor:
    """``value``, bit for bit, with the gradient of ``proxy``; both of one shape and finite."""
    return value.detach() + (proxy - proxy.detach())


def straight_through(apply: Passage) -> Passage:
    """BPDA: forward the defence, backward the identity.

    Athalye et al. 2018, "Obfuscated Gradients Give a False Sense of Security", section 4.1, for
    defences that return about what they were given.

    Args:
        apply: the defence; it may round, sort or encode.
    """

    def passage(images: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            defended = apply(images.detach(), generator)
        return with_gradient_of(defended, images)

    return passage


def recomputed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """``function(*arguments)``, its activations computed again in the backward pass, not kept.

    What a purifier's ``run`` takes: memory then grows by one image a step, not by the network's
    activations. The noise is already in the arguments, which are kept: the recomputation sees the
    very noise of the forward pass (gradients of published defences were wrong where it was drawn
    anew; Kassis et al. 2025, "DiffBreak").
    """
    value: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return value
