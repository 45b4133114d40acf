"""What stands for Stable Diffusion where no hub is reached: an autoencoder and a latent network.

Both learn from clean photos, scenes and text alone, no attack in sight.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from lab.precision import compute_dtype
from lab.train.clean import CleanBatches
from lab.train.loop import LoopSettings, train_loop
from lab.world.compose import World
from models.purifier.empty_prompt import EmptyPrompt
from models.purifier.latent import LatentPurificationPipeline
from models.purifier.latent_network import (
    build_autoencoder,
    build_latent_network,
    stable_diffusion_schedule,
)
from models.purifier.latent_step import add_noise, encode

__all__ = ["train_autoencoder", "train_latent_base"]

KL_WEIGHT = 1e-4
NUM_SCALING_BATCHES = 8


def train_autoencoder(
    world: World,
    folder: Path,
    settings: LoopSettings,
    *,
    autoencoder: AutoencoderKL | None = None,
    batch_size: int = 16,
    size_px: int = 64,
    seed: int = 0,
) -> AutoencoderKL:
    """Train an autoencoder: L1 distance, and a little of the posterior's divergence.

    As latent diffusion does (Rombach et al. 2022, section 3.1, KL-regularised), without its
    adversarial and perceptual losses: detail that a decoder invents is of no use in a purifier.
    Latents are then scaled to unit variance (ibid., appendix G).

    Args:
        world: Its training split.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        autoencoder: What is trained; a small one where None.
        batch_size: Images a step.
        size_px: Side of the crops.
        seed: Of data and weights.
    """
    torch.manual_seed(seed)
    device, dtype = _device()
    autoencoder = autoencoder or build_autoencoder()
    autoencoder.to(device, memory_format=torch.channels_last)

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        images = batch.to(device).float() / 255
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            posterior = autoencoder.encode(images * 2 - 1).latent_dist
            decoded = autoencoder.decode(posterior.sample()).sample
        error = (decoded.float() + 1) / 2 - images
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        psnr = -10 * torch.log10(error.detach().square().mean())
        return error.abs().mean() + KL_WEIGHT * divergence.float(), {"psnr": float(psnr)}

    batches = CleanBatches(world, batch_size, size_px, seed)
    checkpoint = folder / "latent-autoencoder.pt"
    train_loop(autoencoder, batches, loss_of, settings, checkpoint=checkpoint, label="autoencoder")
    autoencoder.register_to_config(scaling_factor=_unit_scale(autoencoder, batches, device))
    return autoencoder


def train_latent_base(
    autoencoder: AutoencoderKL,
    world: World,
    folder: Path,
    settings: LoopSettings,
    *,
    network: UNet2DConditionModel | None = None,
    batch_size: int = 16,
    size_px: int = 64,
    seed: int = 0,
) -> LatentPurificationPipeline:
    """Train an ordinary diffusion model in the autoencoder's latents: Ho et al. 2020, eq. 14.

    Args:
        autoencoder: Trained; it stays as it is.
        world: Its training split.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        network: What is trained; a small one where None.
        batch_size: Images a step.
        size_px: Side of the crops.
        seed: Of data, noise and weights.
    """
    torch.manual_seed(seed)
    device, dtype = _device()
    network = network or build_latent_network(latent_channels=autoencoder.config.latent_channels)
    network.to(device, memory_format=torch.channels_last)
    autoencoder.to(device).eval().requires_grad_(False)
    scheduler = stable_diffusion_schedule()
    prompt = EmptyPrompt(1, int(network.config.cross_attention_dim)).to(device)

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        images = batch.to(device).float() / 255
        timesteps = torch.randint(len(scheduler.alphas_cumprod), (len(images),), device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                latents = encode(autoencoder, images).float()
            noise = torch.randn_like(latents)
            noisy = add_noise(scheduler, latents, timesteps, noise)
            predicted = network(noisy, timesteps, prompt(len(images)), return_dict=False)[0]
        return (predicted.float() - noise).square().mean(), {}

    batches = CleanBatches(world, batch_size, size_px, seed + 1)
    checkpoint = folder / "latent-base.pt"
    train_loop(network, batches, loss_of, settings, checkpoint=checkpoint, label="latent-base")
    return LatentPurificationPipeline(autoencoder, network, scheduler, prompt, name="latent-base")


@torch.no_grad()
def _unit_scale(autoencoder: AutoencoderKL, batches: CleanBatches, device: torch.device) -> float:
    """What latents are multiplied by for a variance of one."""
    autoencoder.register_to_config(scaling_factor=1.0)
    latents = [
        encode(autoencoder, batches[step].to(device).float() / 255)
        for step in range(NUM_SCALING_BATCHES)
    ]
    return 1 / float(torch.cat(latents).std())


def _device() -> tuple[torch.device, torch.dtype]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device, compute_dtype(device)
