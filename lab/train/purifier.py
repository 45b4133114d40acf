"""The purifier: the base, fine-tuned on pairs to give back the clean image in one step.

Supervised diffusion purification with task guidance (CoDefend, arXiv 2510.11096): a reconstruction
loss in pixels and the distance of a vision encoder's features from those of the clean image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor

from lab.precision import compute_dtype
from lab.train.capture import Step, captured
from lab.train.crops import PhotoSource, clean_crops
from lab.train.loop import LoopSettings, train_loop
from lab.train.pairs import EPSILON_RANGE, Pairs
from lab.train.through import attack_through
from models.purifier.denoiser import denoise

__all__ = ["Course", "Guide", "PurifierLoss", "PurifierOptions", "train_purifier"]

NOISE_RANGE = (0.01, 0.12)
CLEAN_SHARE = 0.25
PHOTO_SHARE = 0.125
SCALE_RANGE = (0.5, 1.1)


class Guide(Protocol):
    """A frozen vision encoder."""

    def encoder_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to (B, places, C), differentiably."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Pairs of one size, the encoder that they were made on, and their part in every step.

    Attributes:
        pairs: Attacked–clean pairs.
        guide: Whose features shall come back.
        batch_size: Images a step: a quarter of them clean on both sides, an eighth clean crops of
            photos and text.
        through_share: Share of them that are attacked anew, through the purifier as it is.
        weight: Of its loss in the whole.
    """

    pairs: Pairs
    guide: Guide
    batch_size: int
    through_share: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares that leave no place for clean images."""
        if not 0 <= self.through_share <= 1 - CLEAN_SHARE - PHOTO_SHARE:
            raise ValueError(f"through_share must be in [0, {1 - CLEAN_SHARE - PHOTO_SHARE}]")

    @property
    def through(self) -> slice:
        """The rows of a batch that are attacked through the purifier."""
        first = round(self.batch_size * CLEAN_SHARE)
        return slice(first, first + round(self.batch_size * self.through_share))

    def batch(self, world: PhotoSource, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Clean and attacked images, (B, 3, H, W) uint8, perturbations rescaled and mirrored."""
        num_crops = round(self.batch_size * PHOTO_SHARE)
        rows = torch.from_numpy(
            rng.integers(len(self.pairs.clean), size=self.batch_size - num_crops)
        )
        clean = self.pairs.clean[rows]
        perturbation = self.pairs.attacked[rows].float() - clean
        scale = torch.from_numpy(rng.uniform(*SCALE_RANGE, size=len(rows))).float()
        scale[: round(self.batch_size * CLEAN_SHARE)] = 0
        attacked = (clean + scale.view(-1, 1, 1, 1) * perturbation).round().clamp(0, 255)
        crops = clean_crops(world, num_crops, clean.shape[-1], rng)
        clean, attacked = torch.cat([clean, crops]), torch.cat([attacked.to(torch.uint8), crops])
        mirrored = torch.from_numpy(rng.random(len(clean)) < 0.5).view(-1, 1, 1, 1)
        return (
            torch.where(mirrored, clean.flip(-1), clean),
            torch.where(mirrored, attacked.flip(-1), attacked),
        )


@dataclass(frozen=True, slots=True)
class _CourseBatches:
    world: PhotoSource
    courses: Sequence[Course]
    seed: int

    def __getitem__(self, step: int) -> list[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng([self.seed, 6, step])
        return [course.batch(self.world, rng) for course in self.courses]


@dataclass(frozen=True, slots=True, kw_only=True)
class PurifierOptions:
    """What is minimised, and how it is computed.

    Attributes:
        feature_weight: Weight of the features beside the pixels; 0 leaves them out.
        through_steps: Gradient steps of attacks through the network.
        compiled: Compile the network: one graph for training and one for attacks, of each size.
    """

    feature_weight: float = 0.1
    through_steps: int = 5
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class PurifierLoss:
    """L1 distance in pixels plus the distance of features.

    Attributes:
        network: In training.
        dtype: In which it computes.
        options: What is minimised.
    """

    network: UNet2DModel
    dtype: torch.dtype
    options: PurifierOptions

    def __call__(
        self, course: Course, clean: Tensor, attacked: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one course's batch (B, 3, H, W) float in [0, 1], and its figures."""
        guide, through = course.guide, course.through
        with torch.no_grad():
            wanted = guide.encoder_features(clean).float()
        if through.stop > through.start:
            attacked[through] = self._attack(course, clean, attacked, wanted)
        purified = self._purify(attacked)
        distances = _feature_distance(guide, purified, wanted)
        pixels = (purified - clean).abs().mean()
        psnr = -10 * torch.log10((purified.clamp(0, 1) - clean).square().mean())
        figures = {"psnr": psnr.detach(), "features": distances.detach().mean()}
        if through.stop > through.start:
            figures["through"] = distances[through].detach().mean()
        return pixels + self.options.feature_weight * distances.mean(), figures

    def step_of(self, course: Course) -> Step:
        """What leaves one course's gradients, from its images (B, 3, H, W) uint8."""

        def step(clean: Tensor, attacked: Tensor) -> dict[str, Tensor]:
            loss, figures = self(course, clean.float() / 255, attacked.float() / 255)
            (course.weight * loss).backward()  # type: ignore[no-untyped-call]
            return {"loss": loss.detach(), **figures}

        return step

    def _attack(self, course: Course, clean: Tensor, start: Tensor, wanted: Tensor) -> Tensor:
        """The rows that are attacked through the network, which takes no gradients meanwhile."""
        rows, guide = course.through, course.guide
        radius = torch.empty(rows.stop - rows.start, device=clean.device)
        self.network.requires_grad_(False)
        try:
            return attack_through(
                clean[rows],
                start[rows],
                radius.uniform_(*EPSILON_RANGE),
                lambda images: _feature_distance(guide, self._purify(images), wanted[rows]),
                steps=self.options.through_steps,
            )
        finally:
            self.network.requires_grad_(True)

    def _purify(self, images: Tensor) -> Tensor:
        """One step from a noise level drawn for every image; not clamped."""
        low, high = (float(np.log(level)) for level in NOISE_RANGE)
        sigma = torch.empty(len(images), device=images.device).uniform_(low, high).exp()
        noisy = images + sigma.view(-1, 1, 1, 1) * torch.randn_like(images)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return denoise(self.network, noisy, sigma).float()


def train_purifier(
    network: UNet2DModel,
    courses: Sequence[Course],
    world: PhotoSource,
    folder: Path,
    settings: LoopSettings,
    *,
    options: PurifierOptions = PurifierOptions(),
    seed: int = 0,
) -> UNet2DModel:
    """Fine-tune ``network`` (the base) in place; the noise level is drawn anew for every image.

    Args:
        network: Starts as the base.
        courses: What it learns from, all in every step.
        world: For crops that nobody attacked.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        options: What the loss is, and how it is computed.
        seed: Of data and noise.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last)
    if options.compiled:
        network.compile(dynamic=False)
    loss = PurifierLoss(network, compute_dtype(device), options)

    batches = _CourseBatches(world, courses, seed)
    torch.backends.cudnn.benchmark = True  # before the steps are captured
    steps = [
        captured(loss.step_of(course), [images.to(device) for images in example])
        for course, example in zip(courses, batches[0], strict=True)
    ]

    def loss_of(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, dict[str, float]]:
        total = torch.zeros((), device=device)
        figures: dict[str, float] = {}
        for number, (step, images) in enumerate(zip(steps, batch, strict=True)):
            found = step(*(share.to(device) for share in images))
            total = total + courses[number].weight * found["loss"]
            named = {name: float(value) for name, value in found.items() if name != "loss"}
            figures |= {f"{name}{number or ''}": value for name, value in named.items()}
        return total, figures

    checkpoint = folder / "purifier.pt"
    train_loop(network, batches, loss_of, settings, checkpoint=checkpoint, label="purifier")
    return network


def _feature_distance(guide: Guide, purified: Tensor, wanted: Tensor) -> Tensor:
    """(B,) mean over places of the distance, relative to the length of the clean feature.

    Not squared: a few attacks that throw features far would drown all the others.
    """
    features = guide.encoder_features(purified.clamp(0, 1)).float()
    distance = torch.linalg.vector_norm(features - wanted, dim=-1)
    length = torch.linalg.vector_norm(wanted, dim=-1).clamp_min(1e-3)
    relative: Tensor = distance / length
    return relative.mean(dim=1)
