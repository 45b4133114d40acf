"""Square Attack: Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box…"."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.interface import Bounds, Objective
from codefend.lab.attacks.search import checked, where_image

__all__ = ["SquareAttack", "square_side"]

# Section 4.1: p is halved at these iterations of 10,000, rescaled to the budget.
_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)


def square_side(look: int, num_looks: int, side_px: int, first_share: float) -> int:
    """Side of the square at an iteration: round(sqrt(p) * w), at least one pixel.

    Args:
        look: iteration, from 0.
        num_looks: iterations in all.
        side_px: w, side of the image.
        first_share: p at the start, the share of the image's pixels.
    """
    scaled = look * 10_000 / num_looks
    share = first_share / 2 ** sum(scaled > halving for halving in _HALVINGS)
    return max(1, min(side_px, round(math.sqrt(share) * side_px)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareAttack:
    """Random search over squares of colour at the corners of the l-infinity ball (algorithm 1).

    It asks for losses only, ``num_looks`` times for each image. Against a defence that draws noise
    the kept loss is that of one draw; the paper knows no such defence.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        num_looks: how often the objective may be asked.
        first_share: p at the start.
        bounds: range of pixel values.
    """

    epsilon: float
    num_looks: int
    first_share: float = 0.8
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        checked(epsilon=self.epsilon, steps=self.num_looks, restarts=1)
        if not 0 < self.first_share <= 1:
            raise ValueError(f"first_share must be in (0, 1], got {self.first_share}")

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` needs no gradient."""
        clean = images.detach()
        # Section 3.3: start from vertical stripes of width one.
        stripes = _signs((len(clean), 3, 1, clean.shape[-1]), generator).to(clean)
        best = self.bounds.clip(clean + self.epsilon * stripes)
        losses = objective(best)
        for look in range(1, self.num_looks):
            side = square_side(look, self.num_looks, min(clean.shape[-2:]), self.first_share)
            candidate = best.clone()
            for row in range(len(clean)):
                self._paint(candidate[row], clean[row], side, generator)
            new = objective(candidate)
            better = new > losses
            best = where_image(better, candidate, best)
            losses = torch.where(better, new, losses)
        return best

    def _paint(
        self, candidate: Tensor, clean: Tensor, side: int, generator: Generator | None
    ) -> None:
        """Gives one square of one image (3, H, W) a new sign in each channel (algorithm 2)."""
        height, width = clean.shape[-2:]
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        place = (slice(None), slice(top, top + side), slice(left, left + side))
        changed = clean[place] + self.epsilon * _signs((3, 1, 1), generator).to(clean)
        candidate[place] = self.bounds.clip(changed)


def _signs(shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    """Independent signs, -1 or 1."""
    return 2.0 * torch.randint(2, shape, generator=generator).float() - 1.0
