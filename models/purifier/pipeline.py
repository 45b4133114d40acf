"""The purifier: noise an attacked image to a small level, then predict the clean one.

Served by ``service/purify``, trained and evaluated by ``lab``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline, UNet2DModel
from torch import Generator, Tensor
from torch.nn import functional

from models.purifier.denoiser import denoise, noise_levels, padding_multiple
from models.purifier.network import build_network

__all__ = ["PurificationPipeline"]


class PurificationPipeline(DiffusionPipeline):  # type: ignore[misc]
    """A pixel diffusion purifier in the ``diffusers`` format.

    Purification runs the forward process to the noise level t* and the reverse process back
    (DiffPure, Nie et al. 2022, eq. 4–6), with a denoiser fine-tuned on pairs so that one step is
    enough (CoDefend, arXiv 2510.11096).

    Attributes:
        unet: Reads pixel-unshuffled images; see ``models.purifier.denoiser`` for its scalings.
    """

    unet: UNet2DModel

    def __init__(
        self,
        unet: UNet2DModel,
        noise_level: float = 0.05,
        num_steps: int = 1,
        name: str = "purifier",
        version: str = "0",
    ) -> None:
        """Assemble a pipeline.

        Args:
            unet: The network.
            noise_level: Default standard deviation of the noise, in units of the [0, 1] range.
            num_steps: Default number of denoising steps.
            name: What responses and reports call it.
            version: Changes with every training.
        """
        super().__init__()
        self.register_modules(unet=unet)
        self.register_to_config(
            noise_level=noise_level, num_steps=num_steps, name=name, version=version
        )

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A real pipeline with a tiny random network, for tests."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(widths=(16, 16), num_layers=1)
            torch.nn.init.normal_(network.conv_out.weight, std=0.02)
        return cls(network, name="tiny", version=str(seed))

    @torch.no_grad()
    def purify(
        self,
        images: Tensor,
        generator: Generator | None = None,
        *,
        num_steps: int | None = None,
        noise_level: float | None = None,
    ) -> Tensor:
        """Purify a batch.

        Args:
            images: (B, 3, H, W) float in [0, 1], any H and W.
            generator: Source of the noise, on the images' device; None draws fresh noise.
            num_steps: Denoising steps, at least 1; None takes the pipeline's.
            noise_level: Standard deviation of the noise in (0, 1]; None takes the pipeline's.

        Returns:
            (B, 3, H, W) in [0, 1], in the images' dtype.

        Raises:
            ValueError: Wrong shape, dtype, step count or noise level.
        """
        return self.purify_with_gradient(
            images, generator, num_steps=num_steps, noise_level=noise_level
        )

    def purify_with_gradient(
        self,
        images: Tensor,
        generator: Generator | None = None,
        *,
        num_steps: int | None = None,
        noise_level: float | None = None,
        step: Callable[[UNet2DModel, Tensor, float], Tensor] = denoise,
    ) -> Tensor:
        """As ``purify``, recording gradients: what training and white-box attackers call.

        ``step`` computes one step as ``denoise`` does; an attacker short of memory passes one that
        computes its activations again in the backward pass. No noise is drawn inside it.
        """
        levels = noise_levels(
            self.config.noise_level if noise_level is None else noise_level,
            self.config.num_steps if num_steps is None else num_steps,
        )
        _check(images)
        height, width = images.shape[-2:]
        current = _pad(images.to(self.unet.dtype), padding_multiple(self.unet))
        for level in levels:
            noise = torch.randn(
                current.shape, generator=generator, device=current.device, dtype=current.dtype
            )
            current = step(self.unet, current + level * noise, level)
        return current[..., :height, :width].clamp(0, 1).to(images.dtype)

    def __call__(self, images: Tensor, **options: Any) -> Tensor:
        """The ``diffusers`` way to call ``purify``."""
        return self.purify(images, **options)


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be float in [0, 1], not {images.dtype}")


def _pad(images: Tensor, multiple: int) -> Tensor:
    """Reflect (or, for images smaller than the padding, repeat the edge) up to a multiple."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    mode = "reflect" if bottom < height and right < width else "replicate"
    return functional.pad(images, (0, right, 0, bottom), mode=mode)
