"""One defence behind another, such as a codec behind a purifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence, Passage
from codefend.lab.baselines.gradients import with_gradient_of
from codefend.models.quantise import dequantise, quantise

__all__ = ["chained"]

_NEAREST_FIRST = ("exact", "surrogate", "bpda")


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

    inexact = [part for part in parts if "exact" not in part.passages]
    gradients = dict.fromkeys(name for part in inexact for name in part.passages) or ("exact",)
    return Defence(
        "+".join(part.name for part in parts),
        " ".join(part.setting for part in parts if part.setting),
        apply,
        is_random=any(part.is_random for part in parts),
        passages={name: _through(parts, name) for name in gradients},
        parts=tuple(parts),
    )


def _rounded(images: Tensor) -> Tensor:
    return dequantise(quantise(images), images.dtype).contiguous()


def _through(parts: Sequence[Defence], gradient: str) -> Passage:
    ways = [part.passages[_nearest(part, gradient)] for part in parts]

    def passage(images: Tensor, generator: Generator) -> Tensor:
        for way in ways:
            found = way(images, generator)
            images = with_gradient_of(_rounded(found.detach()), found)
        return images

    return passage


def _nearest(part: Defence, gradient: str) -> str:
    order = ("exact", gradient, *_NEAREST_FIRST)
    return next(name for name in order if name in part.passages)
