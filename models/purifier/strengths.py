"""How strong a defence is: one table of noise and steps, which every room reads.

More noise hides more of an attack and more of the picture; a second step takes out more of an
attack for as much of the picture, and costs as much time again. Free of torch: the API process
reads it, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["STRENGTHS", "Strength", "StrengthSettings", "levels_by_strength", "noise_levels"]


class Strength(StrEnum):
    """Which row of the table."""

    LIGHT = "light"
    STANDARD = "standard"
    STRONG = "strong"


@dataclass(frozen=True, slots=True)
class StrengthSettings:
    """What a strength is made of.

    Attributes:
        noise_level: Standard deviation, in units of the [0, 1] range; None for the purifier's own.
        times_steps: How many times the purifier's own number of denoising steps, so that a network
            that is captured or converted for that number serves every strength; what a picture
            costs is that many times as much.
    """

    noise_level: float | None = None
    times_steps: int = 1

    def levels(self, noise_level: float, num_steps: int) -> tuple[float, ...]:
        """Of each step, for a purifier whose own noise level and number of steps these are."""
        level = noise_level if self.noise_level is None else self.noise_level
        return noise_levels(level, num_steps * self.times_steps)


STRENGTHS: Mapping[Strength, StrengthSettings] = {
    Strength.LIGHT: StrengthSettings(noise_level=0.05),
    Strength.STANDARD: StrengthSettings(),
    Strength.STRONG: StrengthSettings(noise_level=0.065, times_steps=2),
}
"""Every strength; their numbers stand here and nowhere else.

Chosen on collages apart from the test's (`experiments/photographs-settings.toml`, and for steps
`photographs-steps.toml`): less noise than light keeps little more of what was clean and restores a
quarter, more than standard restores less at 4/255, and two steps of 0.065 restore more at both
radii than one of any noise, with a JPEG behind it or without.
"""


def levels_by_strength(
    noise_level: float, num_steps: int, strengths: Sequence[Strength] = tuple(Strength)
) -> dict[str, tuple[float, ...]]:
    """The noise levels of each strength, for a purifier of this level and so many steps.

    Args:
        noise_level: The purifier's own.
        num_steps: The purifier's own.
        strengths: Those that it has.
    """
    return {each.value: STRENGTHS[each].levels(noise_level, num_steps) for each in strengths}


def noise_levels(noise_level: float, num_steps: int) -> tuple[float, ...]:
    """The levels of ``num_steps`` steps, from ``noise_level`` down, each half the one before.

    Every step adds fresh noise to the last prediction (multistep consistency sampling, Song et al.
    2023, algorithm 1).

    Raises:
        ValueError: ``noise_level`` outside (0, 1] or fewer than one step.
    """
    if not 0 < noise_level <= 1:
        raise ValueError(f"noise_level must be in (0, 1], not {noise_level}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    return tuple(noise_level * 0.5**step for step in range(num_steps))
