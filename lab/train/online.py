"""Pairs made as the purifier learns: self-supervised attacks on features of several encoders.

NRP (Naseer et al. 2020) trains a purifier on attacks that need no labels; ADBM (Li et al. 2025) on
attacks through the purifier, its noise level and noise held fixed while they search. Here both are
shares of every batch, each step on another encoder and at a depth of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from codefend.lab.attacks.gradient import loss_and_grad
from codefend.lab.baselines.compression import smooth_jpeg
from codefend.lab.encoders.encoder import Encoder
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.precision import mixed_precision
from codefend.lab.train.crops import PhotoSource
from codefend.lab.train.losses import log_uniform, without_gradients
from codefend.lab.train.pairs import EPSILON_RANGE
from codefend.lab.train.pictures import PictureMix
from codefend.lab.train.sources import TrainingSource
from codefend.models.purifier.denoiser import denoise

__all__ = ["EPSILON_RANGE", "OnlineLoss", "OnlineOptions", "OnlineSource"]

_L2_SHARE = 0.25
_L2_OF_BALL = 0.5  # an l2 radius is that of so large a share of the l-infinity ball's corner
_TOWARDS_SHARE = 0.5
_JPEG_QUALITIES = (30, 75)
_SHORTEST = 1e-3  # of a clean feature, below which its distance is not relative


class OnlineOptions(RunSettings):
    """How pictures are attacked as the purifier learns, and what is minimised."""

    clean_share: float = 0.25
    """Share of a batch that is not attacked."""
    adversarial_share: float = 0.25
    """Share attacked through the purifier as it is."""
    attack_steps: int = 4
    """Gradient steps on the encoder alone."""
    adversarial_steps: int = 2
    """Gradient steps through the purifier."""
    feature_weight: float = 0.1
    """Of the features beside the pixels; 0 leaves the feature loss out."""
    replayed: bool = True
    """Purify the adversarial share with the attack's own level and noise."""
    jpeg_share: float = 0.5
    """Share of steps whose features are taken behind a JPEG codec."""
    least_noise: float = Field(0.01, gt=0)
    """Least noise level, in units of the range; levels are log-uniform between the two."""
    most_noise: float = Field(0.12, le=1)
    """Largest noise level."""

    def model_post_init(self, context: Any, /) -> None:
        """Refuses shares that are none, or that together are more than the whole."""
        shares = (self.clean_share, self.adversarial_share)
        if min(shares) < 0 or sum(shares) > 1 or not 0 <= self.jpeg_share <= 1:
            raise ValueError("shares must be at least 0, and together at most 1")
        if self.least_noise > self.most_noise:
            raise ValueError("least_noise must not be above most_noise")


@dataclass(frozen=True)
class OnlineSource(TrainingSource):
    """Unattacked pictures of all kinds, and the encoders that are attacked on them.

    Attributes:
        mix: the pictures.
        encoders: frozen; every step attacks one of them and learns from it.
        options: how they are attacked, and what is minimised.
        weight: of its loss in the whole.
    """

    mix: PictureMix
    encoders: Sequence[Encoder]
    options: OnlineOptions = field(default_factory=OnlineOptions)
    weight: float = 1.0
    is_fixed = False  # every step goes another way

    def batch(
        self, step: int, photos: PhotoSource, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Clean images (B, 3, H, W) uint8, twice: they are attacked where the network is."""
        images = self.mix.batch(step)
        return images, images


@dataclass(frozen=True, slots=True)
class OnlineLoss:
    """Pixels and features of purified images against those of clean ones.

    Attributes:
        network: in training.
        dtype: in which it computes.
        options: how images are attacked, and what is minimised.
    """

    network: nn.Module
    dtype: torch.dtype
    options: OnlineOptions

    def __call__(self, source: OnlineSource, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch (B, 3, H, W) float in [0, 1], and its figures."""
        options = self.options
        encoder = source.encoders[_draw(len(source.encoders))]
        depths = range(encoder.num_depths)
        num_clean = round(len(clean) * options.clean_share)
        num_adversarial = round(len(clean) * options.adversarial_share)
        order = torch.randperm(len(clean))
        clean = clean[order]
        with torch.no_grad():
            wanted = encoder.features_at(clean, depths)
        sigma, noise = self._noise(clean)
        oblivious = slice(num_clean, len(clean) - num_adversarial)
        adversarial = slice(len(clean) - num_adversarial, len(clean))
        attacked = clean.clone()
        attacked[oblivious] = self._attack(encoder, clean, wanted, oblivious)
        if num_adversarial:
            fixed = (sigma[adversarial], noise[adversarial]) if options.replayed else None
            attacked[adversarial] = self._attack_through(encoder, clean, wanted, adversarial, fixed)
        purified = self._purify(attacked, sigma, noise)
        seen = purified.clamp(0, 1)
        if float(torch.rand(())) < options.jpeg_share:
            seen = smooth_jpeg(seen, int(torch.randint(*_JPEG_QUALITIES, ())))
        distances = torch.stack(
            [
                relative_distance(found, clear)
                for found, clear in zip(encoder.features_at(seen, depths), wanted, strict=True)
            ]
        ).mean(dim=0)
        pixels = (purified - clean).abs().mean(dim=(1, 2, 3))
        error = (purified.clamp(0, 1) - clean).square().mean(dim=(1, 2, 3))
        psnr = -10 * error.clamp_min(1e-10).log10()
        shares = {"clean": slice(num_clean), "attacked": oblivious, "adversarial": adversarial}
        figures: dict[str, Tensor] = {}
        for name, rows in shares.items():
            if len(distances[rows]):
                figures[f"psnr_{name}"] = psnr[rows].mean().detach()
                figures[f"features_{name}"] = distances[rows].mean().detach()
        loss = pixels.mean() + options.feature_weight * distances.mean()
        return loss, figures

    def _purify(self, images: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """One step from a level for every image; not clamped."""
        noisy = images + sigma.view(-1, 1, 1, 1) * noise
        with mixed_precision(images.device, self.dtype):
            return denoise(self.network, noisy, sigma).float()  # type: ignore[arg-type]

    def _noise(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """A level for every image, and its noise."""
        levels = log_uniform(images, self.options.least_noise, self.options.most_noise)
        return levels, torch.randn_like(images)

    def _attack(
        self, encoder: Encoder, clean: Tensor, wanted: Sequence[Tensor], rows: slice
    ) -> Tensor:
        """Attacks on the encoder alone, at one depth: away from its features, or to others'."""
        depth = _draw(encoder.num_depths)
        towards = float(torch.rand(())) < _TOWARDS_SHARE
        goal = (wanted[depth].roll(1, 0) if towards else wanted[depth])[rows]
        sign = -1.0 if towards else 1.0

        def objective(images: Tensor) -> Tensor:
            return sign * relative_distance(encoder.features_at(images, [depth])[0], goal)

        return feature_attack(clean[rows], objective, steps=self.options.attack_steps)

    def _attack_through(
        self,
        encoder: Encoder,
        clean: Tensor,
        wanted: Sequence[Tensor],
        rows: slice,
        fixed: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        depth = _draw(encoder.num_depths)
        goal = wanted[depth][rows]

        def objective(images: Tensor) -> Tensor:
            sigma, noise = fixed if fixed is not None else self._noise(images)
            purified = self._purify(images, sigma, noise).clamp(0, 1)
            return relative_distance(encoder.features_at(purified, [depth])[0], goal)

        with without_gradients(self.network):
            return feature_attack(clean[rows], objective, steps=self.options.adversarial_steps)


def feature_attack(clean: Tensor, objective: Callable[[Tensor], Tensor], *, steps: int) -> Tensor:
    """Gradient ascent from a random start, l-infinity in one call and l2 in another.

    Radii are drawn for every image, log-uniform in ``EPSILON_RANGE``; an l2 ball is as large as
    half of the way to the l-infinity ball's corner.

    Args:
        clean: (B, 3, H, W) float in [0, 1].
        objective: images to losses (B,) to maximise.
        steps: gradient steps, each of 2.5 times the radius through ``steps``.

    Returns:
        (B, 3, H, W) on the 256 levels, without a gradient.
    """
    radius = log_uniform(clean, *EPSILON_RANGE).view(-1, 1, 1, 1)
    is_l2 = float(torch.rand(())) < _L2_SHARE
    moved = radius * (2.0 * torch.rand_like(clean) - 1.0)
    reach = _L2_OF_BALL * radius * math.sqrt(clean[0].numel())
    for _ in range(steps):
        current = (clean + moved).clamp(0, 1)
        _, gradients = loss_and_grad(current, objective)
        if is_l2:
            moved = moved + 2.5 / steps * reach * gradients / _length(gradients).clamp_min(1e-12)
            moved = moved * (reach / _length(moved).clamp_min(1e-12)).clamp_max(1.0)
        else:
            moved = moved + 2.5 / steps * radius * gradients.sign()
            moved = torch.minimum(torch.maximum(moved, -radius), radius)
    return ((clean + moved).clamp(0, 1) * 255).round() / 255


def relative_distance(features: Tensor, wanted: Tensor) -> Tensor:
    """(B,) mean over places of the distance, relative to the mean length of the clean features.

    Not squared: a few attacks that throw features far would drown all the others. Relative to the
    mean, not place by place: an even surface has hardly any features, and would weigh most.
    """
    distance = torch.linalg.vector_norm(features - wanted, dim=-1).mean(dim=1)
    length = torch.linalg.vector_norm(wanted, dim=-1).mean(dim=1)
    relative: Tensor = distance / length.clamp_min(_SHORTEST)
    return relative


def _draw(num: int) -> int:
    return int(torch.randint(num, ()))


def _length(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return lengths.view(-1, 1, 1, 1)
