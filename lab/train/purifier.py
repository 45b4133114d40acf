"""The purifier: the base, fine-tuned on pairs to give back the clean image in one step.

Supervised diffusion purification with task guidance (CoDefend, arXiv 2510.11096): a reconstruction
loss in pixels and the distance of the victim encoder's features from those of the clean image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor

from lab.precision import compute_dtype
from lab.train.base import clean_crops
from lab.train.loop import LoopSettings, train_loop
from lab.train.pairs import Pairs
from lab.victims.victim import Victim
from lab.world.compose import World
from models.purifier.denoiser import denoise

__all__ = ["train_purifier"]

NOISE_RANGE = (0.01, 0.12)
CLEAN_SHARE = 0.25
PHOTO_SHARE = 0.125
SCALE_RANGE = (0.5, 1.1)


@dataclass(frozen=True, slots=True)
class _PairBatches:
    """Batches of pairs, clean–clean pairs and photos; perturbations are rescaled and mirrored."""

    world: World
    pairs: Pairs
    batch_size: int
    seed: int

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, 6, step])
        num_photos = round(self.batch_size * PHOTO_SHARE)
        rows = torch.from_numpy(
            rng.integers(len(self.pairs.clean), size=self.batch_size - num_photos)
        )
        clean = self.pairs.clean[rows].float() / 255
        perturbation = self.pairs.attacked[rows].float() / 255 - clean
        scale = torch.from_numpy(rng.uniform(*SCALE_RANGE, size=len(rows))).float()
        scale[: round(self.batch_size * CLEAN_SHARE)] = 0
        attacked = (clean + scale.view(-1, 1, 1, 1) * perturbation).clamp(0, 1)
        attacked = (attacked * 255).round() / 255
        photos = clean_crops(self.world, num_photos, clean.shape[-1], rng).float() / 255
        clean, attacked = torch.cat([clean, photos]), torch.cat([attacked, photos])
        mirrored = torch.from_numpy(rng.random(len(clean)) < 0.5).view(-1, 1, 1, 1)
        return (
            torch.where(mirrored, clean.flip(-1), clean),
            torch.where(mirrored, attacked.flip(-1), attacked),
        )


def train_purifier(
    network: UNet2DModel,
    victim: Victim,
    data: tuple[World, Pairs],
    folder: Path,
    settings: LoopSettings,
    *,
    batch_size: int = 16,
    feature_weight: float = 0.1,
    seed: int = 0,
) -> UNet2DModel:
    """Fine-tune ``network`` (the base) in place; the noise level is drawn anew for every image.

    Args:
        network: Starts as the base.
        victim: Whose encoder guides; frozen.
        data: The world, for photos that nobody attacked, and the pairs.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        batch_size: Images a step.
        feature_weight: Weight of the feature loss beside the L1 distance; 0 leaves it out.
        seed: Of data and noise.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last)
    dtype = compute_dtype(device)
    low, high = (float(np.log(level)) for level in NOISE_RANGE)

    def loss_of(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        clean, attacked = (images.to(device) for images in batch)
        sigma = torch.empty(len(clean), device=device).uniform_(low, high).exp()
        noisy = attacked + sigma.view(-1, 1, 1, 1) * torch.randn_like(attacked)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            purified = denoise(network, noisy, sigma).float()
            features = _feature_distance(victim, purified, clean)
        pixels = (purified - clean).abs().mean()
        psnr = -10 * torch.log10((purified.clamp(0, 1) - clean).square().mean())
        figures = {"psnr": float(psnr.detach()), "features": float(features.detach())}
        return pixels + feature_weight * features, figures

    batches = _PairBatches(*data, batch_size, seed)
    checkpoint = folder / "purifier.pt"
    train_loop(network, batches, loss_of, settings, checkpoint=checkpoint, label="purifier")
    return network


def _feature_distance(victim: Victim, purified: Tensor, clean: Tensor) -> Tensor:
    """Mean over patches of the distance, relative to the length of the clean feature.

    Not squared: a few attacks that throw features far would drown all the others.
    """
    with torch.no_grad():
        wanted = victim.encoder_features(clean).float()
    features = victim.encoder_features(purified.clamp(0, 1)).float()
    distance = torch.linalg.vector_norm(features - wanted, dim=-1)
    relative: Tensor = distance / torch.linalg.vector_norm(wanted, dim=-1)
    return relative.mean()
