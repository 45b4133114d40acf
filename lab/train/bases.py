"""Bases: ordinary diffusion models of clean photos and scenes, no attack in sight.

One in pixels; and what stands for Stable Diffusion where no hub is reached, a small autoencoder and
a network in its latents.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor

from codefend.lab.precision import mixed_precision
from codefend.lab.train.crops import CleanBatches
from codefend.lab.train.loop import LoopSettings, begin, train_loop
from codefend.models.purifier.denoiser import denoise
from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_network import (
    build_latent_network,
    build_tiny_autoencoder,
    stable_diffusion_schedule,
)
from codefend.models.purifier.latent_step import Autoencoder, add_noise, decode, encode
from codefend.models.purifier.network import build_network

__all__ = ["train_autoencoder", "train_base", "train_latent_base"]

LOG_SIGMA_MEAN, LOG_SIGMA_STD = -2.2, 1.2
NUM_SCALING_BATCHES = 8


def train_base(batches: CleanBatches, folder: Path, settings: LoopSettings) -> UNet2DModel:
    """Train the denoiser at every noise level (Karras et al. 2022, eq. 8) on clean images alone.

    Args:
        batches: What it sees; their seed is that of weights and noise as well.
        folder: Where the checkpoint goes.
        settings: Length and rates.
    """
    device, dtype = begin(batches.seed)
    network = build_network().to(device, memory_format=torch.channels_last)

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        clean = batch.to(device).float() / 255
        sigma = (torch.randn(len(clean), device=device) * LOG_SIGMA_STD + LOG_SIGMA_MEAN).exp()
        sigma = sigma.clamp(0.005, 1.0)
        noisy = clean + sigma.view(-1, 1, 1, 1) * torch.randn_like(clean)
        with mixed_precision(device, dtype):
            denoised = denoise(network, noisy, sigma)
        error = (denoised.float() - clean).square().mean(dim=(1, 2, 3))
        weight = 1 / (sigma.square() + 0.02**2)
        return (weight * error).mean(), {"rmse": float(error.detach().mean().sqrt())}

    train_loop(network, batches, loss_of, settings, checkpoint=folder / "base.pt", label="base")
    return network


def train_autoencoder(
    batches: CleanBatches,
    folder: Path,
    settings: LoopSettings,
    autoencoder: Autoencoder | None = None,
) -> Autoencoder:
    """Train an autoencoder to reconstruct, by L1 distance alone.

    Without latent diffusion's adversarial and perceptual losses (Rombach et al. 2022, section 3.1):
    detail that a decoder invents is of no use in a purifier. Latents are then brought to a mean of
    zero and unit variance (ibid., appendix G).

    Args:
        batches: What it sees; their seed is that of the weights as well.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        autoencoder: What is trained, full or tiny; a tiny one where None.
    """
    device, dtype = begin(batches.seed)
    autoencoder = autoencoder or build_tiny_autoencoder()
    autoencoder.to(device, memory_format=torch.channels_last)
    autoencoder.register_to_config(scaling_factor=1.0, shift_factor=0.0)

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        images = batch.to(device).float() / 255
        with mixed_precision(device, dtype):
            decoded = decode(autoencoder, encode(autoencoder, images))
        error = decoded.float() - images
        psnr = -10 * torch.log10(error.detach().square().mean())
        return error.abs().mean(), {"psnr": float(psnr)}

    checkpoint = folder / "latent-autoencoder.pt"
    train_loop(autoencoder, batches, loss_of, settings, checkpoint=checkpoint, label="autoencoder")
    _standardise(autoencoder, batches, device)
    return autoencoder


def train_latent_base(
    autoencoder: Autoencoder,
    batches: CleanBatches,
    folder: Path,
    settings: LoopSettings,
    network: UNet2DConditionModel | None = None,
) -> LatentPurificationPipeline:
    """Train an ordinary diffusion model in the autoencoder's latents: Ho et al. 2020, eq. 14.

    Args:
        autoencoder: Trained; it stays as it is.
        batches: What the autoencoder saw; the network sees others, by the next seed.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        network: What is trained; a small one where None.
    """
    device, dtype = begin(batches.seed)
    network = network or build_latent_network(latent_channels=autoencoder.config.latent_channels)
    network.to(device, memory_format=torch.channels_last)
    autoencoder.to(device).eval().requires_grad_(False)
    scheduler = stable_diffusion_schedule()
    prompt = EmptyPrompt(1, int(network.config.cross_attention_dim)).to(device)

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        images = batch.to(device).float() / 255
        timesteps = torch.randint(len(scheduler.alphas_cumprod), (len(images),), device=device)
        with mixed_precision(device, dtype):
            with torch.no_grad():
                latents = encode(autoencoder, images).float()
            noise = torch.randn_like(latents)
            noisy = add_noise(scheduler, latents, timesteps, noise)
            predicted = network(noisy, timesteps, prompt(len(images)), return_dict=False)[0]
        return (predicted.float() - noise).square().mean(), {}

    batches = replace(batches, seed=batches.seed + 1)
    checkpoint = folder / "latent-base.pt"
    train_loop(network, batches, loss_of, settings, checkpoint=checkpoint, label="latent-base")
    return LatentPurificationPipeline(autoencoder, network, scheduler, prompt, name="latent-base")


@torch.no_grad()
def _standardise(autoencoder: Autoencoder, batches: CleanBatches, device: torch.device) -> None:
    """Writes into its configuration what brings latents to a mean of zero and unit variance."""
    latents = [
        encode(autoencoder, batches[step].to(device).float() / 255)
        for step in range(NUM_SCALING_BATCHES)
    ]
    deviation, mean = torch.std_mean(torch.cat(latents))
    autoencoder.register_to_config(scaling_factor=1 / float(deviation), shift_factor=float(mean))
