"""Trains anything that purifies on courses, all of them in every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codefend.lab.train.capture import Step, captured
from codefend.lab.train.courses import CourseBatches, TrainingSource
from codefend.lab.train.crops import PhotoSource
from codefend.lab.train.loop import LoopSettings, train_loop
from codefend.lab.train.online import OnlineSource

__all__ = ["CourseLoss", "train_on_courses"]


class CourseLoss(Protocol):
    """What is minimised."""

    def __call__(
        self, course: Any, clean: Tensor, attacked: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one source's batch (B, 3, H, W) float in [0, 1], and its figures."""
        ...


def train_on_courses(
    module: nn.Module,
    loss: CourseLoss,
    courses: Sequence[TrainingSource],
    world: PhotoSource,
    settings: LoopSettings,
    *,
    checkpoint: Path,
    device: torch.device,
    seed: int = 0,
) -> None:
    """Train ``module`` in place, each course's step one CUDA graph where there is a GPU.

    Args:
        module: Its parameters that require gradients are trained.
        loss: Of each course, with gradients to them.
        courses: What it learns from.
        world: For crops that nobody attacked.
        settings: Length and rates.
        checkpoint: Where a run resumes from; its name goes on the progress bar.
        device: Where the loss is computed.
        seed: Of data.
    """
    batches = CourseBatches(world, courses, seed)
    torch.backends.cudnn.benchmark = True  # before the steps are captured
    steps = [
        _step_of(loss, course)
        if isinstance(course, OnlineSource)  # it draws another way through Python every time
        else captured(_step_of(loss, course), [images.to(device) for images in example])
        for course, example in zip(courses, batches[0], strict=True)
    ]

    def loss_of(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, dict[str, float]]:
        total = torch.zeros((), device=device)
        figures: dict[str, float] = {}
        for number, (step, images) in enumerate(zip(steps, batch, strict=True)):
            found = step(*(share.to(device) for share in images))
            total = total + courses[number].weight * found["loss"]
            named = {name: float(value) for name, value in found.items() if name != "loss"}
            figures |= {f"{name}{number or ''}": value for name, value in named.items()}
        return total, figures

    train_loop(
        module,
        batches,
        loss_of,
        settings,
        checkpoint=checkpoint,
        label=checkpoint.stem,
        seed=seed,
    )


def _step_of(loss: CourseLoss, course: TrainingSource) -> Step:
    """What leaves one course's gradients, from its images (B, 3, H, W) uint8."""

    def step(clean: Tensor, attacked: Tensor) -> dict[str, Tensor]:
        value, figures = loss(course, clean.float() / 255, attacked.float() / 255)
        (course.weight * value).backward()  # type: ignore[no-untyped-call]
        return {"loss": value.detach(), **figures}

    return step
