"""The losses of purifiers that learn from stored pairs, and the attacks that they make meanwhile.

Adversarial training of the purifier, everything behind it frozen (ADBM, Li et al. 2025): only
attacks through the purifier as it is teach it what a white-box attacker does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from pydantic import Field
from torch import Tensor, nn

from codefend.lab.attacks.gradient import loss_and_grad
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.precision import mixed_precision
from codefend.lab.train.pairs import EPSILON_RANGE
from codefend.lab.train.sources import FeatureExtractor, PairSource
from codefend.models.purifier.denoiser import denoise
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_step import (
    add_noise,
    decode,
    encode,
    predict_clean,
    timesteps_of,
)

__all__ = [
    "LatentLoss",
    "PurifierLoss",
    "PurifierOptions",
    "attack_through",
    "feature_distance",
    "log_uniform",
    "without_gradients",
]

NOISE_RANGE = (0.01, 0.12)
HUBER_SCALE = 1e-3


class PurifierOptions(RunSettings):
    """What a purifier of either kind minimises; latents, their pixels and rank are of latent ones.

    Where a latent purifier's pixels and features weigh 0 nothing is decoded, which is fast.
    """

    noise_level: float = 0.05
    """t*: what is served; of a latent one a share of the schedule, half to twice it are trained."""
    feature_weight: float = 0.1
    """Of the distance of features; 0 leaves the feature loss out."""
    adversarial_steps: int = 5
    """Gradient steps of attacks through the purifier itself."""
    compiled: bool = False
    """Compile a pixel network first, which takes minutes: a graph for training, one for attacks."""
    latent_weight: float = 1.0
    """Latent: of the latents' distance."""
    pixel_weight: float = 1.0
    """Latent: of the decoded images' L1 distance."""
    rank: int = Field(64, ge=1)
    """Latent: of the adapters."""

    def model_post_init(self, context: Any, /) -> None:
        """Refuse what cannot be learned."""
        if not 0 < self.noise_level <= 1:
            raise ValueError(f"noise_level must be in (0, 1], not {self.noise_level}")
        weights = (self.latent_weight, self.pixel_weight, self.feature_weight)
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"weights must be at least 0, and one of them above: {weights}")


def log_uniform(images: Tensor, low: float, high: float) -> Tensor:
    """(B,) log-uniform draws between two levels, one an image."""
    drawn = torch.empty(len(images), device=images.device)
    return drawn.uniform_(math.log(low), math.log(high)).exp()


@contextmanager
def without_gradients(network: nn.Module) -> Iterator[None]:
    """Within the block the parameters in training take no gradients."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def feature_distance(extractor: FeatureExtractor, purified: Tensor, wanted: Tensor) -> Tensor:
    """(B,) mean over places of the distance, relative to the length of the clean feature.

    Not squared: a few attacks that throw features far would drown all the others.
    """
    features = extractor.encoder_features(purified.clamp(0, 1)).float()
    distance = torch.linalg.vector_norm(features - wanted, dim=-1)
    length = torch.linalg.vector_norm(wanted, dim=-1).clamp_min(1e-3)
    relative: Tensor = distance / length
    return relative.mean(dim=1)


def attack_through(
    clean: Tensor,
    start: Tensor,
    epsilon: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    *,
    steps: int,
) -> Tensor:
    """Projected gradient ascent from ``start``, on a loss that may draw its noise anew each step.

    Args:
        clean: (B, 3, H, W) float in [0, 1].
        start: Where to begin; brought into the balls.
        epsilon: (B,) l-infinity radius of each image, as a fraction of the range.
        loss_of: Images to the losses (B,) of what comes out of the purifier.
        steps: Gradient steps, each of 2.5 ε / steps (Madry et al. 2018).

    Returns:
        (B, 3, H, W) on the 256 levels, without a gradient.
    """
    radius = epsilon.view(-1, 1, 1, 1)
    low, high = (clean - radius).clamp_min(0), (clean + radius).clamp_max(1)
    current = torch.clamp(start, low, high)
    for _ in range(steps):
        _, gradients = loss_and_grad(current, loss_of)
        current = torch.clamp(current + 2.5 / steps * radius * gradients.sign(), low, high)
    return (current * 255).round() / 255


@dataclass(frozen=True, slots=True)
class _AdversarialRows:
    """Attacks the adversarial rows of a batch through a network as it is.

    Attributes:
        network: in training; it takes no gradients meanwhile.
        purify: images to purified ones, with fresh noise.
        steps: gradient steps.
    """

    network: nn.Module
    purify: Callable[[Tensor], Tensor]
    steps: int

    def __call__(self, source: PairSource, clean: Tensor, attacked: Tensor, wanted: Tensor) -> None:
        """Writes into ``attacked``, where the attacks also begin, on the 256 levels.

        Args:
            source: says which rows.
            clean: (B, 3, H, W) float in [0, 1], the whole batch.
            attacked: likewise.
            wanted: features of the clean images.
        """
        rows = source.adversarial
        radius = torch.empty(rows.stop - rows.start, device=clean.device)
        with without_gradients(self.network):
            attacked[rows] = attack_through(
                clean[rows],
                attacked[rows],
                radius.uniform_(*EPSILON_RANGE),
                lambda images: feature_distance(
                    source.extractor, self.purify(images), wanted[rows]
                ),
                steps=self.steps,
            )


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
        self, source: PairSource, clean: Tensor, attacked: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one source's batch (B, 3, H, W) float in [0, 1], and its figures."""
        rows = source.adversarial
        with torch.no_grad():
            wanted = source.extractor.encoder_features(clean).float()
        if rows.stop > rows.start:
            attack = _AdversarialRows(self.network, self._purify, self.options.adversarial_steps)
            attack(source, clean, attacked, wanted)
        purified = self._purify(attacked)
        distances = feature_distance(source.extractor, purified, wanted)
        pixels = (purified - clean).abs().mean()
        psnr = -10 * torch.log10((purified.clamp(0, 1) - clean).square().mean())
        figures = {"psnr": psnr.detach(), "features": distances.detach().mean()}
        if rows.stop > rows.start:
            figures["adversarial"] = distances[rows].detach().mean()
        return pixels + self.options.feature_weight * distances.mean(), figures

    def _purify(self, images: Tensor) -> Tensor:
        """One step from a noise level drawn for every image; not clamped."""
        sigma = log_uniform(images, *NOISE_RANGE)
        noisy = images + sigma.view(-1, 1, 1, 1) * torch.randn_like(images)
        with mixed_precision(images.device, self.dtype):
            return denoise(self.network, noisy, sigma).float()


@dataclass(frozen=True, slots=True)
class LatentLoss:
    """Distance in latents, plus those in decoded pixels and in features where they weigh anything.

    Attributes:
        pipeline: Its network is in training.
        dtype: In which it computes.
        options: What is minimised.
    """

    pipeline: LatentPurificationPipeline
    dtype: torch.dtype
    options: PurifierOptions

    def __call__(
        self, source: PairSource, clean: Tensor, attacked: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one source's batch (B, 3, H, W) float in [0, 1], and its figures."""
        rows = source.adversarial
        wanted = self._wanted(source, clean)
        if wanted is not None and rows.stop > rows.start:
            steps = self.options.adversarial_steps
            attack = _AdversarialRows(self.pipeline.unet, self._purify, steps)
            attack(source, clean, attacked, wanted)
        with torch.no_grad():
            target = self._encode(clean)
        predicted = self._predict(attacked)
        loss = self.options.latent_weight * _pseudo_huber(predicted - target)
        figures = {"latents": (predicted - target).detach().square().mean().sqrt()}
        if self.options.pixel_weight or self.options.feature_weight:
            decoded, more = self._decoded_loss(source, clean, self._decode(predicted), wanted)
            loss, figures = loss + decoded, figures | more
        return loss, figures

    def _wanted(self, source: PairSource, clean: Tensor) -> Tensor | None:
        """The clean images' features, where anything asks for them."""
        if not self.options.feature_weight and source.adversarial.stop == source.adversarial.start:
            return None
        with torch.no_grad():
            return source.extractor.encoder_features(clean).float()

    def _decoded_loss(
        self, source: PairSource, clean: Tensor, purified: Tensor, wanted: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        error = purified - clean
        loss = self.options.pixel_weight * error.abs().mean()
        figures = {"psnr": -10 * torch.log10(error.detach().square().mean())}
        if self.options.feature_weight and wanted is not None:
            distances = feature_distance(source.extractor, purified, wanted)
            loss = loss + self.options.feature_weight * distances.mean()
            figures["features"] = distances.detach().mean()
        return loss, figures

    def _purify(self, images: Tensor) -> Tensor:
        return self._decode(self._predict(images))

    def _predict(self, images: Tensor) -> Tensor:
        """The clean latent, in one step from a noise level drawn for every image."""
        pipeline, middle = self.pipeline, self.options.noise_level
        levels = log_uniform(images, middle / 2, min(1.0, middle * 2))
        timesteps = timesteps_of(pipeline.scheduler, levels, len(images))
        latents = self._encode(images)
        noisy = add_noise(pipeline.scheduler, latents, timesteps, torch.randn_like(latents))
        prompt = pipeline.empty_prompt(len(images))
        with mixed_precision(images.device, self.dtype):
            return predict_clean(
                pipeline.unet, pipeline.scheduler, noisy, timesteps, prompt
            ).float()

    def _encode(self, images: Tensor) -> Tensor:
        with mixed_precision(images.device, self.dtype):
            return encode(self.pipeline.vae, images).float()

    def _decode(self, latents: Tensor) -> Tensor:
        with mixed_precision(latents.device, self.dtype):
            return decode(self.pipeline.vae, latents).float()


def _pseudo_huber(difference: Tensor) -> Tensor:
    """√(d² + c²) - c, as LCM trains (Luo et al. 2023, appendix): L1 but for the smallest."""
    return ((difference.square() + HUBER_SCALE**2).sqrt() - HUBER_SCALE).mean()
