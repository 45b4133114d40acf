"""An attacker who minimises suspicion too: the detector and its purifier are in the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from codefend.lab.attacks.interface import Objective
from codefend.lab.baselines.defence import Forward
from codefend.models.detector.network import SuspicionDetector

__all__ = ["Evading"]


@dataclass(frozen=True, slots=True)
class Evading:
    """The victim's loss, less what the detector's score exceeds that of a usual clean image by.

    A hinge, as in Carlini & Wagner 2017, "Adversarial Examples Are Not Easily Detected", section 3:
    what passes as clean already is not made cleaner at the attack's expense.

    Attributes:
        harm: the victim's losses (B,) of what it sees.
        detector: whose scores are minimised.
        purify: the way through the purifier: images and a source of noise to purified images.
        usual_score: a score under which nothing is flagged.
        generator: of the purifier's noise, drawn anew at every call.
        sees_purified: whether the victim is behind the purifier; else it is undefended.
        weight: of the detector's excess.
        num_draws: of noise, averaged.
    """

    harm: Objective
    detector: SuspicionDetector
    purify: Forward
    usual_score: float
    generator: Generator
    sees_purified: bool = True
    weight: float = 1.0
    num_draws: int = 4

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to losses (B,), to be maximised."""
        losses = [self._draw(images) for _ in range(self.num_draws)]
        return torch.stack(losses).mean(dim=0)

    def _draw(self, images: Tensor) -> Tensor:
        purified = self.purify(images, self.generator)
        excess = functional.relu(self.detector(images, purified) - self.usual_score)
        harm = self.harm(purified if self.sees_purified else images)
        return harm - self.weight * excess
