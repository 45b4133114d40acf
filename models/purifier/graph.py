"""A purifier as one function of bytes and noise: what engines run, and what is converted for one.

Nothing is drawn inside it, and nothing is fetched from a device: given the same noise, every way to
run it gives the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from codefend.models.purifier.purifier import Level, Purifier
from codefend.models.purifier.strengths import Strength, levels_by_strength
from codefend.models.quantise import as_bytes, dequantise, round_to_levels

__all__ = ["PurifierGraph"]


class PurifierGraph(nn.Module):
    """Runs normalise → noise → denoise → clamp → quantise on one batch.

    Attributes:
        purifier: What it runs.
        levels: The noise levels of each strength that it has.
    """

    def __init__(self, purifier: Purifier) -> None:
        """Takes a purifier, in the precision and on the device where it is to run.

        Args:
            purifier: Of any kind.
        """
        super().__init__()
        self.purifier = purifier
        config = purifier.config
        self.levels = levels_by_strength(config.noise_level, config.num_steps, purifier.strengths)
        components = purifier.components.values()
        self._parts = nn.ModuleList(part for part in components if isinstance(part, nn.Module))
        self.eval().requires_grad_(False)

    def describe(self) -> dict[str, Any]:
        """What it is: name, version, steps, noise level and levels by strength, for JSON."""
        config = self.purifier.config
        return {
            "name": str(config.name),
            "version": str(config.version),
            "steps": int(config.num_steps),
            "noise_level": float(config.noise_level),
            "levels": self.levels,
        }

    @property
    def own_levels(self) -> tuple[float, ...]:
        """Those that the purifier itself names."""
        return self.levels[Strength.STANDARD]

    def noise_shape(self, num_images: int, height: int, width: int) -> tuple[int, ...]:
        """Of one batch's noise, (S, B, C, h, w), of the purifier's own number of steps."""
        return len(self.own_levels), *self.purifier.noise_shape(num_images, height, width)

    def draw_noise(
        self, num_images: int, height: int, width: int, generator: torch.Generator
    ) -> Tensor:
        """Fresh noise of one batch, of ``noise_shape``, in the purifier's precision."""
        return torch.randn(
            self.noise_shape(num_images, height, width),
            generator=generator,
            device=generator.device,
            dtype=self.purifier.dtype,
        )

    def forward(
        self, pixels: Tensor, noise: Tensor, levels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Purifies a batch.

        Args:
            pixels: (B, H, W, 3) uint8 RGB.
            noise: Of ``draw_noise``.
            levels: (S,) float32, of each step: an input, so that one network serves every strength;
                None for the purifier's own.

        Returns:
            (B, H, W, 3) uint8; and the sum of all levels before they were clamped, which is finite
            if each of them is: a picture holds no NaN, and must not hide one.
        """
        images = dequantise(pixels, self.purifier.dtype)
        purified = self.purifier.purify_given(images, self.steps_of(levels), noise.unbind(0))
        rounded = round_to_levels(purified)
        return as_bytes(rounded), rounded.sum()

    def steps_of(self, levels: Tensor | None) -> Sequence[Level]:
        """The level of each step, (); the purifier's own for None."""
        return self.own_levels if levels is None else levels.unbind(0)
