"""The denoiser D(x; σ) around the network: scalings and pixel-unshuffle."""

from __future__ import annotations

import math

from diffusers import UNet2DModel
from torch import Tensor, full
from torch.nn import functional

__all__ = ["denoise", "padding_multiple", "time_of"]

SIGMA_DATA = 0.25
"""Standard deviation of natural images in [0, 1]."""


def denoise(network: UNet2DModel, noisy: Tensor, noise_level: float | Tensor) -> Tensor:
    """Predict the clean image from one noised to ``noise_level``.

    Preconditioned as in EDM (Karras et al. 2022, eq. 7, table 1), so that the network predicts what
    the scaled input lacks; zero output returns the (slightly shrunken) input. One deviation: c_out
    has a floor, because attacks stay in the image however small σ is.

    Args:
        network: Reads and writes pixel-unshuffled images.
        noisy: (B, 3, H, W), about [0, 1] plus noise; H and W multiples of ``padding_multiple``.
        noise_level: σ in units of the [0, 1] range: a float, (B,) for one level an image, or () for
            one of all.

    Returns:
        (B, 3, H, W), not clamped.
    """
    sigma = (
        noise_level.to(noisy.dtype).view(-1)
        if isinstance(noise_level, Tensor)
        else full((1,), noise_level, dtype=noisy.dtype, device=noisy.device)
    )
    column = sigma.view(-1, 1, 1, 1)
    variance = column**2 + SIGMA_DATA**2
    skip = SIGMA_DATA**2 / variance
    out = (column**2 + ATTACK_SCALE**2).sqrt() * SIGMA_DATA / variance.sqrt()
    factor = _unshuffle_factor(network)
    centered = noisy - 0.5
    inputs = functional.pixel_unshuffle(centered / variance.sqrt(), factor)
    outputs = network(inputs, time_of(sigma), return_dict=False)[0]
    return skip * centered + out * functional.pixel_shuffle(outputs, factor) + 0.5


ATTACK_SCALE = 0.03
"""About the size of an attack, 8/255: the floor of c_out."""


def time_of(sigma: Tensor) -> Tensor:
    """What the network is told of levels (B,): a quarter of their logarithms (EDM, table 1)."""
    return sigma.clamp_min(1e-4).log() / 4


def padding_multiple(network: UNet2DModel) -> int:
    """Sides must be multiples of this: the unshuffle factor times the network's own strides."""
    num_halvings = len(network.config.block_out_channels) - 1
    return _unshuffle_factor(network) << num_halvings


def _unshuffle_factor(network: UNet2DModel) -> int:
    return math.isqrt(int(network.config.in_channels) // 3)
