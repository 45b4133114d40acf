"""The base: an ordinary pixel diffusion model of clean photos and scenes, no attack in sight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor

from lab.precision import compute_dtype
from lab.train.crops import clean_crops
from lab.train.loop import LoopSettings, train_loop
from lab.world.compose import World
from lab.world.scenes import scene_batch
from models.purifier.denoiser import denoise
from models.purifier.network import build_network

__all__ = ["train_base"]

LOG_SIGMA_MEAN = -2.2
LOG_SIGMA_STD = 1.2
SCENE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class _CleanBatches:
    world: World
    batch_size: int
    size_px: int
    seed: int

    def __getitem__(self, step: int) -> Tensor:
        num_scenes = round(self.batch_size * SCENE_SHARE)
        first = step * num_scenes
        scenes = scene_batch(
            self.world, "train", range(first, first + num_scenes), seed=self.seed + 10
        ).images
        rng = np.random.default_rng([self.seed, 4, step])
        crops = clean_crops(self.world, self.batch_size - num_scenes, self.size_px, rng)
        return torch.cat([_random_window(scenes, self.size_px, rng), crops])


def _random_window(images: Tensor, size_px: int, rng: np.random.Generator) -> Tensor:
    top, left = (int(rng.integers(images.shape[-1] - size_px + 1)) for _ in range(2))
    return images[..., top : top + size_px, left : left + size_px]


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

    batches = _CleanBatches(world, batch_size, size_px, seed)
    checkpoint = folder / "base.pt"
    train_loop(network, batches, loss_of, settings, checkpoint=checkpoint, label="base")
    return network
