"""Auto-PGD: Croce & Hein 2020, "Reliable evaluation of adversarial robustness…", Algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.gradient import PGD, loss_and_grad, where_image
from codefend.lab.attacks.interface import Objective

__all__ = ["APGD", "checkpoints"]

_MOMENTUM = 0.75  # alpha in Algorithm 1
_PROGRESS = 0.75  # rho in Condition 1


def checkpoints(steps: int) -> list[int]:
    """Iterations w(j) at which the step size may be halved (section 3.1).

    w(j) = ceil(p(j) * steps), with p(0) = 0, p(1) = 0.22 and
    p(j+1) = p(j) + max(p(j) - p(j-1) - 0.03, 0.06).
    """
    fractions = [0.0, 0.22]
    while fractions[-1] <= 1.0:
        fractions.append(fractions[-1] + max(fractions[-1] - fractions[-2] - 0.03, 0.06))
    # Rounded first: 0.41 * 100 is a hair above 41 in floating point.
    return sorted({math.ceil(round(p * steps, 6)) for p in fractions if p <= 1.0})


@dataclass(slots=True)
class _Progress:
    """What Algorithm 1 remembers of every image: its best point, and its last checkpoint."""

    step_size: Tensor  # (B,) eta
    best: Tensor  # (B, 3, H, W) x_max
    best_losses: Tensor  # (B,) f_max
    best_gradients: Tensor  # (B, 3, H, W), so that a restart costs no extra pass
    num_rises: Tensor  # (B,) steps since the checkpoint that raised the loss
    kept_step_size: Tensor  # (B,) whether eta was left alone at the last checkpoint
    losses_at_checkpoint: Tensor  # (B,) f_max at the last checkpoint

    def record(self, images: Tensor, losses: Tensor, gradients: Tensor, previous: Tensor) -> None:
        """Takes in one more point and the loss of the point before it."""
        self.num_rises += losses > previous
        better = losses > self.best_losses
        self.best = where_image(better, images, self.best)
        self.best_gradients = where_image(better, gradients, self.best_gradients)
        self.best_losses = torch.maximum(losses, self.best_losses)

    def halve(self, since: int) -> Tensor:
        """Halves the step size where Condition 1 or 2 holds, ``since`` steps after a checkpoint.

        Returns:
            (B,) bool: the images that go back to their best point.
        """
        stalled = self.num_rises < _PROGRESS * since  # Condition 1
        stuck = self.kept_step_size & (self.best_losses <= self.losses_at_checkpoint)  # Condition 2
        halved = stalled | stuck
        self.step_size = torch.where(halved, self.step_size / 2.0, self.step_size)
        self.kept_step_size = ~halved
        self.losses_at_checkpoint = self.best_losses.clone()
        self.num_rises = torch.zeros_like(self.num_rises)
        return halved


@dataclass(frozen=True, kw_only=True)
class APGD(PGD):
    """PGD with momentum that halves its own step size and goes back to its best point.

    Attributes:
        step_size: first step size; 2 epsilon where None, as in the paper.
    """

    def run(
        self, clean: Tensor, objective: Objective, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Algorithm 1: the best images and their losses (B,)."""
        # 1. The start x(0), or a random point around it.
        current = self.start(clean, generator)
        losses, gradients = loss_and_grad(current, objective)
        progress = self._begin(current, losses, gradients)
        previous, halving = current, checkpoints(self.steps)
        for step in range(self.steps):
            # 2. z(k+1) = P(x(k) + eta * sign(grad f(x(k)))), blended with the momentum.
            eta = progress.step_size[:, None, None, None].to(current.dtype)
            target = self.bounds.project(current + eta * gradients.sign(), clean, self.epsilon)
            if step > 0:
                target = current + _MOMENTUM * (target - current)
                target = target + (1.0 - _MOMENTUM) * (current - previous)
            previous, current = current, self.bounds.project(target, clean, self.epsilon)
            # 3. f_max and x_max.
            before = losses
            losses, gradients = loss_and_grad(current, objective)
            progress.record(current, losses, gradients, before)
            # 4. At a checkpoint: halve eta and go back to x_max where progress has stalled.
            if step + 1 in halving:
                last = max(mark for mark in halving if mark <= step)
                back = progress.halve(step + 1 - last)
                current = where_image(back, progress.best, current)
                gradients = where_image(back, progress.best_gradients, gradients)
                losses = torch.where(back, progress.best_losses, losses)
        return progress.best, progress.best_losses

    def _begin(self, images: Tensor, losses: Tensor, gradients: Tensor) -> _Progress:
        first = 2.0 * self.epsilon if self.step_size is None else self.step_size
        return _Progress(
            step_size=torch.full_like(losses, first),
            best=images,
            best_losses=losses,
            best_gradients=gradients,
            num_rises=torch.zeros_like(losses),
            kept_step_size=torch.zeros_like(losses, dtype=torch.bool),
            losses_at_checkpoint=losses,
        )
