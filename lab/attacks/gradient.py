"""Attacks that climb a gradient: what they share, and PGD, their simplest.

``GradientAttack`` does what every one of them does: it validates, runs from as many starts as it is
told, climbs, and keeps each image's best point. An attack of its own says in ``begin`` where a run
starts, how its parameters become images, and what a step is; the registry gives it a name.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor

from codefend.lab.attacks.interface import Bounds, Objective

__all__ = [
    "PGD",
    "Ascent",
    "BallAttack",
    "GradientAttack",
    "UniformNoise",
    "gradient_ascent",
    "loss_and_grad",
    "random_start",
    "require_valid",
    "uniform",
    "where_image",
]


def loss_and_grad(images: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Losses (B,) and their gradients (B, 3, H, W); one image's loss never moves another's."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        losses = objective(images)
        (gradients,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach().float(), gradients.to(images.dtype)


def where_image(mask: Tensor, chosen: Tensor, otherwise: Tensor) -> Tensor:
    """Per image (B,) choice between two batches (B, 3, H, W)."""
    return torch.where(mask[:, None, None, None], chosen, otherwise)


def uniform(like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform in [-1, 1), of the shape, dtype and device of ``like``; drawn on the CPU."""
    unit = torch.rand(like.shape, generator=generator, dtype=like.dtype)
    return 2.0 * unit.to(like.device) - 1.0


def random_start(
    clean: Tensor, epsilon: float, bounds: Bounds, generator: Generator | None
) -> Tensor:
    """A uniform draw from the l-infinity ball of radius ``epsilon``, clipped to the bounds."""
    return bounds.clip(clean + epsilon * uniform(clean, generator))


def _as_it_is(point: Tensor) -> Tensor:
    return point


@dataclass(frozen=True, slots=True)
class Ascent:
    """One run of an attack, in whatever parametrises it.

    Attributes:
        start: (B, ...) parameters; no image depends on another's.
        step: parameters and gradients to the next parameters, within the attack's bound.
        render: parameters to images (B, 3, H, W), differentiably.
    """

    start: Tensor
    step: Callable[[Tensor, Tensor], Tensor]
    render: Callable[[Tensor], Tensor] = _as_it_is


def gradient_ascent(ascent: Ascent, objective: Objective, *, steps: int) -> tuple[Tensor, Tensor]:
    """Climbs ``steps`` times; each image keeps its best point.

    Returns:
        The best images and their losses (B,).
    """

    def look(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen: list[Tensor] = []

        def rendered(point: Tensor) -> Tensor:
            seen.append(ascent.render(point))
            return objective(seen[0])

        losses, gradients = loss_and_grad(point, rendered)
        return seen[0].detach(), losses, gradients

    current = ascent.start
    best, highest, gradients = look(current)
    for _ in range(steps):
        current = ascent.step(current, gradients)
        images, losses, gradients = look(current)
        best = where_image(losses > highest, images, best)
        highest = torch.maximum(losses, highest)
    return best, highest


def require_valid(*, epsilon: float = 0.0, steps: int, restarts: int) -> None:
    """Refuses hyper-parameters that mean nothing.

    Raises:
        ValueError: for a negative radius, or no step or run at all.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be positive, got {steps} and {restarts}")


@dataclass(frozen=True, kw_only=True)
class GradientAttack(ABC):
    """Independent runs of gradient ascent, each image's best of all.

    A subclass defines ``begin``, or ``run`` where its search is none that ``gradient_ascent`` does.

    Attributes:
        steps: gradient steps in each restart.
        restarts: independent runs; each image keeps its best.
        step_size: length of a step; what ``default_step`` makes of its reach where None.
        bounds: range of pixel values.
    """

    steps: int
    restarts: int = 1
    step_size: float | None = None
    bounds: Bounds = field(default_factory=Bounds)

    STEPS_TO_CROSS: ClassVar[float] = 2.5
    """By default so many times the reach is walked in a run (Madry et al. 2018, appendix)."""

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        require_valid(steps=self.steps, restarts=self.restarts)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``."""
        clean = images.detach()
        best, highest = self.run(clean, objective, generator)
        for _ in range(1, self.restarts):
            found, losses = self.run(clean, objective, generator)
            best = where_image(losses > highest, found, best)
            highest = torch.maximum(losses, highest)
        return best

    def run(
        self, clean: Tensor, objective: Objective, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """One run: images (B, 3, H, W) and their losses (B,)."""
        return gradient_ascent(self.begin(clean, generator), objective, steps=self.steps)

    def begin(self, clean: Tensor, generator: Generator | None) -> Ascent:
        """Where a run starts, what a step is, and how parameters become images."""
        raise NotImplementedError

    def step_length(self, reach: float) -> float:
        """The step size: as told, or ``STEPS_TO_CROSS`` times ``reach`` over all steps."""
        default = self.STEPS_TO_CROSS * reach / self.steps
        return default if self.step_size is None else self.step_size


@dataclass(frozen=True, kw_only=True)
class BallAttack(GradientAttack):
    """Signed steps in the l-infinity ball, from a random point of it.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
    """

    epsilon: float

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        require_valid(epsilon=self.epsilon, steps=self.steps, restarts=self.restarts)

    def start(self, clean: Tensor, generator: Generator | None) -> Tensor:
        """Where a run starts: a random point of the ball."""
        return random_start(clean, self.epsilon, self.bounds, generator)

    def move(self, images: Tensor, gradients: Tensor, clean: Tensor) -> Tensor:
        """x(k+1) = P(x(k) + alpha * sign(grad L(x(k))))."""
        moved = images + self.step_length(self.epsilon) * gradients.sign()
        return self.bounds.project(moved, clean, self.epsilon)

    def begin(self, clean: Tensor, generator: Generator | None) -> Ascent:
        """See ``GradientAttack.begin``."""
        return Ascent(
            self.start(clean, generator), lambda images, slope: self.move(images, slope, clean)
        )


@dataclass(frozen=True, kw_only=True)
class PGD(BallAttack):
    """Projected gradient descent: Madry et al. 2018, "Towards Deep Learning Models Resistant…".

    Signed gradient ascent, projected onto the l-infinity ball after every step (section 2.1).
    Deviation: the best iterate of each image is returned instead of the last one.

    Attributes:
        random_start: whether a run starts at a random point of the ball.
    """

    random_start: bool = True

    def start(self, clean: Tensor, generator: Generator | None) -> Tensor:
        """See ``BallAttack.start``."""
        if not self.random_start:
            return clean
        return random_start(clean, self.epsilon, self.bounds, generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformNoise:
    """A random point of the l-infinity ball: the sanity check that should do nothing.

    Attributes:
        epsilon: radius, as a fraction of the pixel range.
        bounds: range of pixel values.
    """

    epsilon: float
    bounds: Bounds = field(default_factory=Bounds)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` is never asked."""
        return random_start(images.detach(), self.epsilon, self.bounds, generator)
