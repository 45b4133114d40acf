"""Attackers who know of a defence: through one of their own (T1), or the deployed one (T2).

``ThroughDefence`` is any objective seen through a defence, its noise averaged; any gradient attack
maximises it. ``attack_through`` goes from a configuration to attacked files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from codefend.lab.attacks.interface import Objective
from codefend.lab.attacks.objectives import language_objective
from codefend.lab.attacks.pixels import attack_pixels, counted
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import Forward, PerImage
from codefend.lab.baselines.purifiers import noise_source
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim
from codefend.models.purifier.purifier import Purifier

__all__ = ["AdaptiveConfig", "ThroughDefence", "attack_through", "surrogate_forward"]

_GOALS = ("language", "margin")
_NOISE_SEED = 0x5EED  # tells the noise of the defence from the random starts of one seed


@dataclass(frozen=True, slots=True)
class ThroughDefence:
    """Expectation over transformation: Athalye et al. 2018, "Synthesizing Robust Adversarial…".

    Every call draws its noise anew. Draws are computed some at once, one such share after another,
    each freed before the next: memory does not grow with their number.

    Attributes:
        objective: what the victim's losses are of images that came through, as many copies of
            the batch, one behind another, as are drawn at once.
        forward: how images, and gradients, get through the defence.
        generator: source of the noise, on the CPU.
        num_draws: how many draws are averaged; 1 where the defence draws none.
        draws_at_once: how many of them are one batch; fills a GPU.
        autocast_dtype: precision of the defence's multiplications; the images' own where None.
        penalty: of uploads, subtracted from their losses: that of an attacker who also evades.
    """

    objective: Objective
    forward: Forward
    generator: Generator
    num_draws: int = 16
    draws_at_once: int = 1
    autocast_dtype: torch.dtype | None = None
    penalty: PerImage | None = None

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
        uploads = images.repeat(copies, 1, 1, 1)
        with torch.autocast(
            images.device.type,
            dtype=self.autocast_dtype or torch.bfloat16,
            enabled=self.autocast_dtype is not None,
        ):
            seen = self.forward(uploads, self.generator)
            paid = self.penalty(uploads, self.generator) if self.penalty else 0.0
        return (self.objective(seen) - paid).view(copies, len(images)).mean(dim=0)


def surrogate_forward(pipeline: Purifier, *, largest_noise_level: float | None = None) -> Forward:
    """Purification in one step from a noise level drawn anew each time, up to a largest one.

    As PureProof (CVPR 2026) attacks a purifier that it does not have: t is uniform up to t_max,
    because the deployed t* is unknown, and gradients are averaged over draws (``ThroughDefence``,
    10 of them there). Deviation: one level for all images of a draw.

    Args:
        pipeline: any purifier.
        largest_noise_level: t_max, in units of the range; the pipeline's own level where None.

    Raises:
        ValueError: for a level outside (0, 1].
    """
    largest = pipeline.config.noise_level if largest_noise_level is None else largest_noise_level
    if not 0 < largest <= 1:
        raise ValueError(f"the largest noise level must be in (0, 1], not {largest}")

    def forward(images: Tensor, generator: Generator) -> Tensor:
        share = 1.0 - float(torch.rand((), generator=generator))  # in (0, 1]
        purified = pipeline.purify_with_gradient(
            images.to(pipeline.device),
            noise_source(pipeline, generator),
            num_steps=1,
            noise_level=share * largest,
        )
        return purified.to(images.device)

    return forward


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConfig:
    """One attack through a defence, as reports and caches identify it.

    Attributes:
        search: what climbs, how far and from which seed; untargeted.
        gradient: which of a defence's gradient paths: ``exact``, ``bpda``, ``surrogate``,
            ``evading``; or ``transfer`` through a purifier of the attacker's own.
        num_draws: draws of noise averaged at every step.
        draws_at_once: how many of them are one batch.
        autocast: torch dtype of the purifier's multiplications by name; single precision if empty.
    """

    search: AttackConfig
    gradient: str
    num_draws: int = 16
    draws_at_once: int = 1
    autocast: str = ""

    def __post_init__(self) -> None:
        """Refuses what cannot be sent through a defence."""
        if self.search.targeted or self.search.goal not in _GOALS:
            raise ValueError(f"untargeted {' and '.join(_GOALS)} attacks only")
        if self.num_draws < 1:
            raise ValueError(f"num_draws must be positive, got {self.num_draws}")

    @property
    def num_evaluations(self) -> int:
        """How often the objective is asked for one batch: each step, and where a run starts."""
        return (self.search.steps + 1) * self.search.restarts


def attack_through(
    config: AdaptiveConfig,
    victim: Victim,
    forward: Forward,
    images: Sequence[np.ndarray],
    truths: Sequence[Sequence[Dialogue]],
    *,
    penalty: PerImage | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> list[bytes]:
    """Attacks images of one size through a defence; gives the PNG files that would be uploaded.

    Args:
        config: the attack.
        victim: whose gradients are used.
        forward: how images and gradients get through the defence.
        images: (H, W, 3) uint8 each.
        truths: for each image, what the attack leads away from, asked as the defended model is.
        penalty: what this way through the defence costs, if anything.
        on_step: called whenever the objective was asked; shows progress, and may end it by raising.
    """
    through = ThroughDefence(
        language_objective(config.search.goal, victim, list(truths) * config.draws_at_once),
        forward,
        torch.Generator().manual_seed(config.search.seed ^ _NOISE_SEED),
        config.num_draws,
        config.draws_at_once,
        getattr(torch, config.autocast) if config.autocast else None,
        penalty,
    )

    return attack_pixels(
        config.search.build(),
        images,
        counted(through, on_step),
        epsilon=config.search.epsilon,
        generator=torch.Generator().manual_seed(config.search.seed),
        device=victim.device,
    )
