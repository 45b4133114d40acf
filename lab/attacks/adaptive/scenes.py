"""From an adaptive attack's configuration to attacked files; the evaluation calls this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codefend.lab.attacks.adaptive.expectation import ThroughDefence
from codefend.lab.attacks.objectives import language_objective
from codefend.lab.attacks.pixels import attack_pixels
from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import Passage
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.victim import Victim

__all__ = ["AdaptiveConfig", "attack_through"]

_GOALS = ("language", "margin")
_NOISE_SEED = 0x5EED  # tells the noise of the defence from the random starts of one seed


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConfig:
    """One attack through a defence, as reports and caches identify it.

    Attributes:
        search: what climbs, how far and from which seed; untargeted.
        gradient: which of a defence's passages: ``exact``, ``bpda``, ``surrogate``; or
            ``transfer`` through a purifier of the attacker's own.
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
    passage: Passage,
    images: Sequence[np.ndarray],
    truths: Sequence[Sequence[Dialogue]],
    *,
    on_step: Callable[[], object] = lambda: None,
) -> list[bytes]:
    """Attacks images of one size through a defence; gives the PNG files that would be uploaded.

    Args:
        config: the attack.
        victim: whose gradients are used.
        passage: how images and gradients get through the defence.
        images: (H, W, 3) uint8 each.
        truths: for each image, what the attack leads away from, asked as the defended model is.
        on_step: called whenever the objective was asked; shows progress.
    """
    through = ThroughDefence(
        language_objective(config.search.goal, victim, list(truths) * config.draws_at_once),
        passage,
        torch.Generator().manual_seed(config.search.seed ^ _NOISE_SEED),
        config.num_draws,
        config.draws_at_once,
        getattr(torch, config.autocast) if config.autocast else None,
    )

    def counted(candidates: Tensor) -> Tensor:
        losses = through(candidates)
        on_step()
        return losses

    return attack_pixels(
        config.search.build(),
        images,
        counted,
        epsilon=config.search.epsilon,
        generator=torch.Generator().manual_seed(config.search.seed),
        device=victim.device,
    )
