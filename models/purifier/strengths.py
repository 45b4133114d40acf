"""How strong a defence is: one table of noise, steps and codec, which every room reads.

More noise hides more of an attack and more of the picture; a codec behind the purifier is a part of
the defence, not of the transport. Free of torch: the API process reads it, too.
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
        num_steps: Denoising steps; None for the purifier's own.
        jpeg_quality: Of the JPEG that every purified picture becomes; None where pixels stay as the
            purifier gave them.
    """

    noise_level: float | None = None
    num_steps: int | None = None
    jpeg_quality: int | None = None

    def levels(self, noise_level: float, num_steps: int) -> tuple[float, ...]:
        """Of each step, for a purifier whose own noise level and number of steps these are."""
        level = noise_level if self.noise_level is None else self.noise_level
        return noise_levels(level, num_steps if self.num_steps is None else self.num_steps)


STRENGTHS: Mapping[Strength, StrengthSettings] = {
    Strength.LIGHT: StrengthSettings(noise_level=0.05, num_steps=1),
    Strength.STANDARD: StrengthSettings(),
    Strength.STRONG: StrengthSettings(noise_level=0.065, num_steps=2),
}
"""Every strength; their numbers stand here and nowhere else.

Chosen on collages apart from the test's (`experiments/photographs-settings.toml`): less noise than
light keeps little more of what was clean and restores a quarter, more than standard restores less.
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
