"""What an attack on an image classifier maximises: away from its class, by loss or by margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.attacks.interface import Objective
from codefend.lab.victims.classifier import ClassifierVictim

__all__ = ["class_loss", "class_margin"]


def class_loss(victim: ClassifierVictim, labels: Tensor) -> Objective:
    """Away from a class by cross-entropy.

    Args:
        victim: the classifier attacked.
        labels: (B,) int64, such as what it predicts on the clean images.

    Returns:
        An objective of (B, 3, H, W) images.
    """

    def objective(images: Tensor) -> Tensor:
        return F.cross_entropy(victim.logits(images), labels.to(images.device), reduction="none")

    return objective


def class_margin(victim: ClassifierVictim, labels: Tensor) -> Objective:
    """Away from a class by the margin of Carlini & Wagner 2017 (f6); positive: misclassified.

    Args:
        victim: the classifier attacked.
        labels: (B,) int64, such as what it predicts on the clean images.

    Returns:
        An objective of (B, 3, H, W) images.
    """

    def objective(images: Tensor) -> Tensor:
        logits, own = victim.logits(images), labels.to(images.device)[:, None]
        others = logits.scatter(1, own, -torch.inf).amax(dim=1)
        return others - logits.gather(1, own)[:, 0]

    return objective
