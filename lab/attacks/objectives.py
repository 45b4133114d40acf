"""What an attack maximises: a language model's loss, an answer's margin, features, or a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from codefend.lab.attacks.interface import Goal, Objective
from codefend.lab.victims.classifier import ClassifierVictim
from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.likelihood import (
    AnswerScore,
    DialogueLoss,
    capped_margin,
    mean_cross_entropy,
)
from codefend.lab.victims.victim import Victim

__all__ = [
    "answer_margin",
    "answer_score",
    "class_loss",
    "class_margin",
    "encoder_distance",
    "image_text_matching",
    "language_objective",
    "mean_of",
    "prototype_guided",
    "targeted_loss",
    "untargeted_loss",
]

Metric = Literal["cosine", "l2"]


def answer_score(goal: Goal) -> AnswerScore:
    """What an answer contributes to the goal: its cross-entropy, or its capped margin.

    Raises:
        ValueError: for a goal that asks no answer.
    """
    if goal == "margin":
        return capped_margin
    if goal == "language":
        return mean_cross_entropy
    raise ValueError(f"goal {goal!r} asks the language model for no answer")


def language_objective(
    goal: Goal, victim: Victim, truths: Sequence[Sequence[Dialogue]]
) -> Objective:
    """Away from the truth, as the goal weighs it: ``untargeted_loss`` or ``answer_margin``.

    Args:
        goal: ``language`` or ``margin``.
        victim: the model attacked.
        truths: for each image, its questions with their right answers.
    """
    return DialogueLoss(victim, truths, answer_score(goal))


def mean_of(objectives: Sequence[Objective]) -> Objective:
    """The mean of several objectives: one search against all of their models."""

    def objective(images: Tensor) -> Tensor:
        return torch.stack([each(images) for each in objectives]).mean(dim=0)

    return objectives[0] if len(objectives) == 1 else objective


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


@torch.no_grad()
def prototype_guided(victim: Victim, reference: Tensor, anchors: Tensor) -> Objective:
    """Away from the reference's patch features and towards those of the least similar anchor.

    The loss of PA-Attack (its public code, hefeimei06/PA-Attack). Deviations: anchors are single
    images, where it takes means of clusters; patches weigh the same, where it weighs them by the
    class token's attention in two stages, which SigLIP towers do not have.

    Args:
        victim: whose vision tower is attacked.
        reference: (B, 3, H, W) float in [0, 1].
        anchors: (N, 3, H, W) likewise; an image is never its own least similar anchor unless there
            is no other.

    Raises:
        ValueError: where there are fewer than two anchors.
    """
    if len(anchors) < 2:
        raise ValueError("guidance needs at least two anchors")
    own = victim.encoder_features(reference).float()
    others = victim.encoder_features(anchors).float()
    similarity = torch.stack(
        [torch.cosine_similarity(features, others, dim=-1).mean(dim=1) for features in own]
    )
    wanted = others[similarity.argmin(dim=1)]

    def objective(images: Tensor) -> Tensor:
        features = victim.encoder_features(images).float()
        towards = torch.cosine_similarity(features, wanted, dim=-1)
        away = torch.cosine_similarity(features, own, dim=-1)
        return (towards - away).mean(dim=1).to(images.device)

    return objective


@torch.no_grad()
def image_text_matching(victim: Victim, texts: Sequence[str], *, towards: bool = True) -> Objective:
    """Towards a text, or away from it, where image and text are embedded in one space.

    MF-it of Zhao et al. 2023 ("On Evaluating Adversarial Robustness of Large Vision-Language
    Models"). Deviation: a LLaVA has no contrastive head; the spaces that meet are the projected
    visual tokens and the word embeddings, so this is the mean over visual tokens of their cosine
    to the mean embedding of the text's tokens.

    Args:
        victim: the model attacked.
        texts: for each image, a caption.
        towards: whether the similarity is to grow.

    Raises:
        ValueError: for a text without tokens.
    """
    embed = victim.model.get_input_embeddings()
    ids = [victim.processor.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    if not all(ids):
        raise ValueError("a text without tokens matches nothing")
    means = [embed(torch.tensor(each, device=victim.device)).float().mean(dim=0) for each in ids]
    wanted = torch.stack(means)[:, None]  # (B, 1, D)
    sign = 1.0 if towards else -1.0

    def objective(images: Tensor) -> Tensor:
        tokens = victim.image_tokens(images).float()
        similarity = torch.cosine_similarity(tokens, wanted, dim=-1).mean(dim=1)
        return sign * similarity.to(images.device)

    return objective


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
