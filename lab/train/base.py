"""The base: an ordinary pixel diffusion model of clean photos and scenes, no attack in sight."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor

from codefend.lab.precision import compute_dtype
from codefend.lab.train.clean import CleanBatches
from codefend.lab.train.loop import LoopSettings, train_loop
from codefend.lab.world.compose import World
from codefend.models.purifier.denoiser import denoise
from codefend.models.purifier.network import build_network

__all__ = ["train_base"]

LOG_SIGMA_MEAN = -2.2
LOG_SIGMA_STD = 1.2


def train_base(
    world: World,
    folder: Path,
    settings: LoopSettings,
    *,
    batch_size: int = 16,
    size_px: int = 64,
    seed: int = 0,
) -> UNet2DModel:
    """Train the denoiser at every noise level (Karras et al. 2022, eq. 8) on clean images alone."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network().to(device, memory_format=torch.channels_last)
    dtype = compute_dtype(device)

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        clean = batch.to(device).float() / 255
        sigma = (torch.randn(len(clean), device=device) * LOG_SIGMA_STD + LOG_SIGMA_MEAN).exp()
        sigma = sigma.clamp(0.005, 1.0)
        noisy = clean + sigma.view(-1, 1, 1, 1) * torch.randn_like(clean)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            denoised = denoise(network, noisy, sigma)
        error = (denoised.float() - clean).square().mean(dim=(1, 2, 3))
        weight = 1 / (sigma.square() + 0.02**2)
        return (weight * error).mean(), {"rmse": float(error.detach().mean().sqrt())}

    batches = CleanBatches(world, batch_size, size_px, seed)
    checkpoint = folder / "base.pt"
    train_loop(network, batches, loss_of, settings, checkpoint=checkpoint, label="base")
    return network
