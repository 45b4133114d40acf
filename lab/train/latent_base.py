"""What stands for Stable Diffusion where no hub is reached: an autoencoder and a latent network.

Both learn from clean photos, scenes and text alone, no attack in sight.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from codefend.lab.precision import compute_dtype
from codefend.lab.train.clean import CleanBatches
from codefend.lab.train.loop import LoopSettings, train_loop
from codefend.lab.world.compose import World
from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_network import (
    build_latent_network,
    build_tiny_autoencoder,
    stable_diffusion_schedule,
)
from codefend.models.purifier.latent_step import Autoencoder, add_noise, decode, encode

__all__ = ["train_autoencoder", "train_latent_base"]

NUM_SCALING_BATCHES = 8


def train_autoencoder(
    world: World,
    folder: Path,
    settings: LoopSettings,
    *,
    autoencoder: Autoencoder | None = None,
    batch_size: int = 16,
    size_px: int = 64,
    seed: int = 0,
) -> Autoencoder:
    """Train an autoencoder to reconstruct, by L1 distance alone.

    Without latent diffusion's adversarial and perceptual losses (Rombach et al. 2022, section 3.1):
    detail that a decoder invents is of no use in a purifier. Latents are then brought to a mean of
    zero and unit variance (ibid., appendix G).

    Args:
        world: Its training split.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        autoencoder: What is trained, full or tiny; a tiny one where None.
        batch_size: Images a step.
        size_px: Side of the crops.
        seed: Of data and weights.
    """
    torch.manual_seed(seed)
    device, dtype = _device()
    autoencoder = autoencoder or build_tiny_autoencoder()
    autoencoder.to(device, memory_format=torch.channels_last)
    autoencoder.register_to_config(scaling_factor=1.0, shift_factor=0.0)

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        images = batch.to(device).float() / 255
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            decoded = decode(autoencoder, encode(autoencoder, images))
        error = decoded.float() - images
        psnr = -10 * torch.log10(error.detach().square().mean())
        return error.abs().mean(), {"psnr": float(psnr)}

    batches = CleanBatches(world, batch_size, size_px, seed)
    checkpoint = folder / "latent-autoencoder.pt"
    train_loop(autoencoder, batches, loss_of, settings, checkpoint=checkpoint, label="autoencoder")
    _standardise(autoencoder, batches, device)
    return autoencoder


def train_latent_base(
    autoencoder: Autoencoder,
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
def _standardise(autoencoder: Autoencoder, batches: CleanBatches, device: torch.device) -> None:
    """Writes into its configuration what brings latents to a mean of zero and unit variance."""
    latents = [
        encode(autoencoder, batches[step].to(device).float() / 255)
        for step in range(NUM_SCALING_BATCHES)
    ]
    deviation, mean = torch.std_mean(torch.cat(latents))
    autoencoder.register_to_config(scaling_factor=1 / float(deviation), shift_factor=float(mean))


def _device() -> tuple[torch.device, torch.dtype]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device, compute_dtype(device)
