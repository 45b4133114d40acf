"""Latent diffusion in one step: to latents and back, noise by the schedule, the clean prediction.

Called by the latent pipeline and by ``codefend.lab.train``.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

__all__ = [
    "Autoencoder",
    "add_noise",
    "decode",
    "encode",
    "latent_factor",
    "latent_padding_multiple",
    "predict_clean",
    "timesteps_of",
]

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny


def encode(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] to latents (B, C, H / f, W / f), scaled to about unit variance.

    The mode of the posterior: the only noise of a purification is the schedule's.
    """
    encoded = autoencoder.encode(images * 2 - 1)
    raw = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    latents: Tensor = (raw - _shift(autoencoder)) * autoencoder.config.scaling_factor
    return latents


def decode(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Latents to images (B, 3, H, W), about [0, 1], not clamped."""
    raw = latents / autoencoder.config.scaling_factor + _shift(autoencoder)
    images: Tensor = (autoencoder.decode(raw).sample + 1) / 2
    return images


def timesteps_of(
    scheduler: DDPMScheduler,
    noise_level: float | Tensor,
    num_images: int,
    device: torch.device | None = None,
) -> Tensor:
    """(B,) int64: the timesteps at ``noise_level``, a share of the schedule in (0, 1].

    It is t* as DiffPure counts it (Nie et al. 2022, section 3.1): OSCP's t* = 200 of Stable
    Diffusion's 1,000 is 0.2. Those of a tensor lie where it does, those of a number on ``device``.
    """
    num_timesteps = int(scheduler.config.num_train_timesteps)
    if isinstance(noise_level, Tensor):
        # As one of one: indexed by a scalar, a table would have its value fetched from the device.
        indices = (noise_level * num_timesteps).round().long().view(-1)
        return indices.sub(1).clamp(0, num_timesteps - 1)
    index = min(max(round(noise_level * num_timesteps) - 1, 0), num_timesteps - 1)
    return torch.full((num_images,), index, dtype=torch.long, device=device)


def add_noise(
    scheduler: DDPMScheduler, latents: Tensor, timesteps: Tensor, noise: Tensor
) -> Tensor:
    """z_t = √ᾱ_t z + √(1 - ᾱ_t) ε (Ho et al. 2020, eq. 4)."""
    signal, scale = _rates(scheduler, timesteps, latents)
    return signal * latents + scale * noise


def predict_clean(
    network: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    noisy: Tensor,
    timesteps: Tensor,
    prompt: Tensor,
) -> Tensor:
    """The clean latent that the network sees in a noisy one, in one evaluation.

    From ε: ẑ = (z_t - √(1 - ᾱ_t) ε) / √ᾱ_t (Ho et al. 2020, below eq. 7); from v: Salimans & Ho
    2022, appendix D. LCM's boundary condition, which OSCP keeps (c_skip and c_out; Luo et al. 2023,
    section 4.1), is left out: with their timestep scaling of 10 and σ_data of 0.5, c_skip is at
    most 0.0025 wherever there is noise, and an attacked latent is no fixed point to return to.

    Args:
        network: Reads latents, timesteps and a prompt's embedding.
        scheduler: Tells ᾱ, and what the network predicts.
        noisy: (B, C, H, W) latents.
        timesteps: (B,) int64, or (1,) for all.
        prompt: (B, num_tokens, width).

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: The scheduler's prediction type is unknown.
    """
    timesteps = timesteps.to(noisy.device)
    output: Tensor = network(noisy, timesteps, encoder_hidden_states=prompt, return_dict=False)[0]
    signal, scale = _rates(scheduler, timesteps, noisy)
    predicts = scheduler.config.prediction_type
    if predicts == "epsilon":
        return (noisy - scale * output) / signal
    if predicts == "v_prediction":
        return signal * noisy - scale * output
    if predicts == "sample":
        return output
    raise ValueError(f"unknown prediction type {predicts}")


def latent_padding_multiple(autoencoder: Autoencoder, network: UNet2DConditionModel) -> int:
    """Sides of images must be multiples of this: the autoencoder's factor times the network's."""
    return latent_factor(autoencoder) << (len(network.config.block_out_channels) - 1)


def latent_factor(autoencoder: Autoencoder) -> int:
    """Pixels a side that one value of a latent stands for."""
    config = autoencoder.config
    widths = config.get("encoder_block_out_channels") or config.block_out_channels
    return 1 << (len(widths) - 1)


def _shift(autoencoder: Autoencoder) -> float:
    return float(autoencoder.config.get("shift_factor") or 0.0)


def _rates(scheduler: DDPMScheduler, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1 - ᾱ_t), each (B, 1, 1, 1), in the latents' precision and place.

    The difference is taken in single precision: in half, it is wrong by 7 % where there is
    little noise.
    """
    # Kept where it is needed, as diffusers' own schedulers do: nothing waits for a copy again.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(like.device)
    kept = scheduler.alphas_cumprod[timesteps.to(like.device)].view(-1, 1, 1, 1)
    return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)
