"""What an attack maximises: the language model's loss, its negative on a target, or features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lab.attacks.interface import Objective
from lab.victims.dialogue import Dialogue
from lab.victims.likelihood import DialogueLoss, capped_margin
from lab.victims.victim import Victim

__all__ = ["answer_margin", "encoder_distance", "targeted_loss", "untargeted_loss"]

Metric = Literal["cosine", "l2"]


def untargeted_loss(victim: Victim, truths: Sequence[Sequence[Dialogue]]) -> Objective:
    """Away from the truth: the mean cross-entropy of right captions and answers.

    The end-to-end attack of Schlarmann & Hein 2023, "On the Adversarial Robustness of Multi-Modal
    Foundation Models".

    Args:
        victim: the model attacked.
        truths: for each image, its questions with their right answers.

    Returns:
        An objective of (B, 3, H, W) images.
    """
    return DialogueLoss(victim, truths)


def answer_margin(victim: Victim, truths: Sequence[Sequence[Dialogue]]) -> Objective:
    """Away from the truth, answer by answer: the mean capped margin of captions and answers.

    Stronger than the cross-entropy where one image must spoil many answers: see
    ``capped_margin``.

    Args:
        victim: the model attacked.
        truths: for each image, its questions with their right answers.

    Returns:
        An objective of (B, 3, H, W) images.
    """
    return DialogueLoss(victim, truths, capped_margin)


def targeted_loss(victim: Victim, targets: Sequence[Dialogue]) -> Objective:
    """Towards a chosen answer: minus its mean cross-entropy.

    Args:
        victim: the model attacked.
        targets: for each image, the question and what the model shall answer.

    Returns:
        An objective of (B, 3, H, W) images, at most 0.
    """
    loss = DialogueLoss(victim, [[target] for target in targets])

    def objective(images: Tensor) -> Tensor:
        return -loss(images)

    return objective


@torch.no_grad()
def encoder_distance(
    victim: Victim, reference: Tensor, *, metric: Metric = "cosine", towards: bool = False
) -> Objective:
    """Away from the reference's patch features, or towards them; the language model is not asked.

    Untargeted with the clean images as reference (as VEAttack does), targeted with other images
    (MF-ii of Zhao et al. 2023, "On Evaluating Adversarial Robustness of Large Vision-Language
    Models"). The gradient is zero at the reference itself: start at random.

    Args:
        victim: whose vision tower is attacked.
        reference: (B, 3, H, W) float in [0, 1].
        metric: mean over patches of one minus the cosine, or of the Euclidean distance.
        towards: whether the distance is to shrink.

    Returns:
        An objective of (B, 3, H, W) images.
    """
    wanted = victim.encoder_features(reference).float()
    sign = -1.0 if towards else 1.0

    def objective(images: Tensor) -> Tensor:
        features = victim.encoder_features(images).float()
        if metric == "cosine":
            distances = 1.0 - torch.cosine_similarity(features, wanted, dim=-1)
        else:
            distances = torch.linalg.vector_norm(features - wanted, dim=-1)
        return sign * distances.mean(dim=1).to(images.device)

    return objective
