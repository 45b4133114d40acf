"""The points of a trade-off curve: purifiers, each at several noise levels and numbers of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codefend.lab.baselines.purifiers import purifying
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.labels import OURS
from codefend.models.purifier.purifier import Purifier

__all__ = ["Point", "points_of"]

SERVED = OURS[-1]
"""The first purifier at its own setting; all others are compared with it."""


@dataclass(frozen=True, slots=True)
class Point:
    """One purifier at one setting.

    Attributes:
        condition: the defence, under the name that rows carry.
        purifier: whose weights.
        noise_level: how much noise, on the scale of its kind.
        num_steps: denoising steps.
    """

    condition: Condition
    purifier: str
    noise_level: float
    num_steps: int


def points_of(
    purifiers: Mapping[str, tuple[Purifier, str]],
    settings: Sequence[tuple[float, int]],
) -> list[Point]:
    """Every purifier at its own setting, then at every other, none twice.

    Args:
        purifiers: name to pipeline and hash of its weights.
        settings: noise level in (0, 1] and number of steps, at least 1.

    Returns:
        The points; the first is named ``purifier``, the others by purifier, level and steps.
    """
    points: list[Point] = []
    for name, (pipeline, sha256) in purifiers.items():
        own = (float(pipeline.config.noise_level), int(pipeline.config.num_steps))
        for level, steps in dict.fromkeys([own, *settings]):
            label = f"{name}@{level:g}x{steps}" if points else SERVED
            defence = purifying(label, pipeline, sha256, noise_level=level, num_steps=steps)
            points.append(Point(Condition(label, defence), name, level, steps))
    return points
