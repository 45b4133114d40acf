"""A purifier as one function of bytes and noise: what engines run, and what is converted for one.

Nothing is drawn inside it, and nothing is fetched from a device: given the same noise, every way to
run it gives the same picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from codefend.models.purifier.purifier import Purifier, noise_levels
from codefend.models.quantise import as_bytes, dequantise, round_to_levels

__all__ = ["PurifierGraph"]


class PurifierGraph(nn.Module):
    """Runs normalise → noise → denoise → clamp → quantise on one batch.

    Attributes:
        purifier: What it runs.
    """

    def __init__(self, purifier: Purifier) -> None:
        """Takes a purifier, in the precision and on the device where it is to run.

        Args:
            purifier: Of any kind.
        """
        super().__init__()
        self.purifier = purifier
        self._levels = noise_levels(purifier.config.noise_level, purifier.config.num_steps)
        components = purifier.components.values()
        self._parts = nn.ModuleList(part for part in components if isinstance(part, nn.Module))
        self.eval().requires_grad_(False)

    def describe(self) -> dict[str, Any]:
        """What it is: name, version, steps and noise level, as JSON has them."""
        config = self.purifier.config
        return {
            "name": str(config.name),
            "version": str(config.version),
            "steps": int(config.num_steps),
            "noise_level": float(config.noise_level),
        }

    def noise_shape(self, num_images: int, height: int, width: int) -> tuple[int, ...]:
        """Of one batch's noise, (S, B, C, h, w)."""
        return len(self._levels), *self.purifier.noise_shape(num_images, height, width)

    def draw_noise(
        self, num_images: int, height: int, width: int, generator: torch.Generator
    ) -> Tensor:
        """Fresh noise of one batch, (S, B, C, h, w) in the purifier's precision."""
        return torch.randn(
            self.noise_shape(num_images, height, width),
            generator=generator,
            device=generator.device,
            dtype=self.purifier.dtype,
        )

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Purifies a batch.

        Args:
            pixels: (B, H, W, 3) uint8 RGB.
            noise: Of ``draw_noise``.

        Returns:
            (B, H, W, 3) uint8; and the sum of all levels before they were clamped, which is finite
            if each of them is: a picture holds no NaN, and must not hide one.
        """
        images = dequantise(pixels, self.purifier.dtype)
        levels = round_to_levels(self.purifier.purify_given(images, self._levels, noise.unbind(0)))
        return as_bytes(levels), levels.sum()
