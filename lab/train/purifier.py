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
from lab.train.pairs import EPSILON_RANGE, Pairs
from lab.train.through import attack_through
from lab.victims.victim import Victim
from lab.world.compose import World
from models.purifier.denoiser import denoise

__all__ = ["PurifierLoss", "train_purifier"]

NOISE_RANGE = (0.01, 0.12)
CLEAN_SHARE = 0.25
PHOTO_SHARE = 0.125
SCALE_RANGE = (0.5, 1.1)


@dataclass(frozen=True, slots=True)
class _PairBatches:
    """Batches of clean–clean pairs, pairs and photos; perturbations are rescaled and mirrored."""

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
        clean = self.pairs.clean[rows]
        perturbation = self.pairs.attacked[rows].float() - clean
        scale = torch.from_numpy(rng.uniform(*SCALE_RANGE, size=len(rows))).float()
        scale[: round(self.batch_size * CLEAN_SHARE)] = 0
        attacked = (clean + scale.view(-1, 1, 1, 1) * perturbation).round().clamp(0, 255)
        photos = clean_crops(self.world, num_photos, clean.shape[-1], rng)
        clean, attacked = torch.cat([clean, photos]), torch.cat([attacked.to(torch.uint8), photos])
        mirrored = torch.from_numpy(rng.random(len(clean)) < 0.5).view(-1, 1, 1, 1)
        return (
            torch.where(mirrored, clean.flip(-1), clean),
            torch.where(mirrored, attacked.flip(-1), attacked),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PurifierLoss:
    """What the purifier is trained on.

    Attributes:
        feature_weight: Weight of the feature loss beside the L1 distance; 0 leaves it out.
        through_share: Share of a batch that is attacked anew, through the purifier as it is.
        through_steps: Gradient steps of that attack.
    """

    feature_weight: float = 0.1
    through_share: float = 0.0
    through_steps: int = 5

    def __post_init__(self) -> None:
        """Refuse shares that leave no place for clean pairs and photos."""
        if not 0 <= self.through_share <= 1 - CLEAN_SHARE - PHOTO_SHARE:
            raise ValueError(f"through_share must be in [0, {1 - CLEAN_SHARE - PHOTO_SHARE}]")


def train_purifier(
    network: UNet2DModel,
    victim: Victim,
    data: tuple[World, Pairs],
    folder: Path,
    settings: LoopSettings,
    *,
    loss: PurifierLoss,
    batch_size: int = 16,
    seed: int = 0,
) -> UNet2DModel:
    """Fine-tune ``network`` (the base) in place; the noise level is drawn anew for every image.

    Args:
        network: Starts as the base.
        victim: Whose encoder guides; frozen.
        data: The world, for photos that nobody attacked, and the pairs.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        loss: What is minimised.
        batch_size: Images a step.
        seed: Of data and noise.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last)
    purify = _Purify(network, compute_dtype(device))
    first = round(batch_size * CLEAN_SHARE)
    through = slice(first, first + round(batch_size * loss.through_share))

    def loss_of(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        clean, attacked = (images.to(device).float() / 255 for images in batch)
        with torch.no_grad():
            wanted = victim.encoder_features(clean).float()
        if through.stop > through.start:
            epsilon = torch.empty(through.stop - through.start, device=device)
            attacked[through] = attack_through(
                clean[through],
                attacked[through],
                epsilon.uniform_(*EPSILON_RANGE),
                lambda images: _feature_distance(victim, purify(images), wanted[through]),
                steps=loss.through_steps,
            )
        purified = purify(attacked)
        distances = _feature_distance(victim, purified, wanted)
        pixels = (purified - clean).abs().mean()
        psnr = -10 * torch.log10((purified.clamp(0, 1) - clean).square().mean())
        figures = {"psnr": float(psnr.detach()), "features": float(distances.detach().mean())}
        if through.stop > through.start:
            figures["through"] = float(distances[through].detach().mean())
        return pixels + loss.feature_weight * distances.mean(), figures

    batches = _PairBatches(*data, batch_size, seed)
    checkpoint = folder / "purifier.pt"
    train_loop(network, batches, loss_of, settings, checkpoint=checkpoint, label="purifier")
    return network


@dataclass(frozen=True, slots=True)
class _Purify:
    """One step from a noise level drawn for every image: (B, 3, H, W) to the same, not clamped."""

    network: UNet2DModel
    dtype: torch.dtype

    def __call__(self, images: Tensor) -> Tensor:
        low, high = (float(np.log(level)) for level in NOISE_RANGE)
        sigma = torch.empty(len(images), device=images.device).uniform_(low, high).exp()
        noisy = images + sigma.view(-1, 1, 1, 1) * torch.randn_like(images)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return denoise(self.network, noisy, sigma).float()


def _feature_distance(victim: Victim, purified: Tensor, wanted: Tensor) -> Tensor:
    """(B,) mean over patches of the distance, relative to the length of the clean feature.

    Not squared: a few attacks that throw features far would drown all the others.
    """
    features = victim.encoder_features(purified.clamp(0, 1)).float()
    distance = torch.linalg.vector_norm(features - wanted, dim=-1)
    relative: Tensor = distance / torch.linalg.vector_norm(wanted, dim=-1)
    return relative.mean(dim=1)
