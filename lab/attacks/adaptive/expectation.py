"""An objective seen through a defence, its noise averaged; any gradient attack maximises it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.interface import Objective
from codefend.lab.baselines.defence import Passage

__all__ = ["ThroughDefence"]


@dataclass(frozen=True, slots=True)
class ThroughDefence:
    """Expectation over transformation: Athalye et al. 2018, "Synthesizing Robust Adversarial…".

    Every call draws its noise anew. Draws are computed some at once, one such share after another,
    each freed before the next: memory does not grow with their number.

    Attributes:
        objective: what the victim's losses are of images that came through, as many copies of
            the batch, one behind another, as are drawn at once.
        passage: how images, and gradients, get through the defence.
        generator: source of the noise, on the CPU.
        num_draws: how many draws are averaged; 1 where the defence draws none.
        draws_at_once: how many of them are one batch; fills a GPU.
        autocast_dtype: precision of the passage's multiplications; the images' own where None.
    """

    objective: Objective
    passage: Passage
    generator: Generator
    num_draws: int = 16
    draws_at_once: int = 1
    autocast_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        """Refuses an empty average, and shares that do not make it up."""
        if self.num_draws < 1:
            raise ValueError(f"an average needs at least one draw, got {self.num_draws}")
        if self.draws_at_once < 1 or self.num_draws % self.draws_at_once:
            raise ValueError(f"{self.num_draws} draws are not made {self.draws_at_once} at once")

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to mean losses (B,), with their gradient where asked for."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return torch.stack([self._draw(images) for _ in range(self._num_shares)]).mean(dim=0)
        uploads = images.detach().requires_grad_(True)
        # An image's loss depends on that image alone, so that one pass gives all gradients.
        total, slope = torch.zeros(0), torch.zeros_like(uploads)
        for number in range(self._num_shares):
            losses = self._draw(uploads)
            (gradients,) = torch.autograd.grad(losses.sum(), uploads)
            total = losses.detach() if number == 0 else total + losses.detach()
            slope += gradients
        # The losses themselves, bit for bit, on a plane with the mean gradient.
        plane = ((images - uploads.detach()) * (slope / self._num_shares)).flatten(1).sum(dim=1)
        return total / self._num_shares + plane.to(total.dtype)

    @property
    def _num_shares(self) -> int:
        return self.num_draws // self.draws_at_once

    def _draw(self, images: Tensor) -> Tensor:
        """Mean losses (B,) of the draws that are made at once."""
        copies = self.draws_at_once
        with torch.autocast(
            images.device.type,
            dtype=self.autocast_dtype or torch.bfloat16,
            enabled=self.autocast_dtype is not None,
        ):
            seen = self.passage(images.repeat(copies, 1, 1, 1), self.generator)
        return self.objective(seen).view(copies, len(images)).mean(dim=0)
