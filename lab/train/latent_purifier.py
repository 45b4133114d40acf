"""The latent purifier: LoRA adapters on a latent diffusion model, tuned on pairs.

Supervised purification in latent space (CoDefend, arXiv 2510.11096), one step from the noised
latent of the attacked image to that of the clean one (OSCP, CVPR 2025, on LCM, Luo et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from codefend.lab.precision import compute_dtype
from codefend.lab.train.course_training import train_on_courses
from codefend.lab.train.courses import Course
from codefend.lab.train.guidance import attack_course, feature_distance
from codefend.lab.train.loop import LoopSettings
from codefend.lab.world.compose import World
from codefend.models.purifier.adapters import attach_adapters
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_step import (
    add_noise,
    decode,
    encode,
    predict_clean,
    timesteps_of,
)

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["LatentLoss", "LatentOptions", "train_latent_purifier"]

HUBER_SCALE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentOptions:
    """What is minimised.

    Attributes:
        noise_level: t*, a share of the schedule; levels from half to twice of it are trained.
        rank: Of the adapters.
        latent_weight: Weight of the distance in latents.
        pixel_weight: Of the L1 distance of decoded images from the clean ones.
        feature_weight: Of the guide's features; where this and the pixels' are 0 nothing is
            decoded, which is fast.
        through_steps: Gradient steps of attacks through the purifier.
    """

    noise_level: float = 0.1
    rank: int = 64
    latent_weight: float = 1.0
    pixel_weight: float = 1.0
    feature_weight: float = 0.1
    through_steps: int = 5

    def __post_init__(self) -> None:
        """Refuse what cannot be learned."""
        if not 0 < self.noise_level <= 1:
            raise ValueError(f"noise_level must be in (0, 1], not {self.noise_level}")
        weights = (self.latent_weight, self.pixel_weight, self.feature_weight)
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"weights must be at least 0, and one of them above: {weights}")


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
    options: LatentOptions

    def __call__(
        self, course: Course, clean: Tensor, attacked: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one course's batch (B, 3, H, W) float in [0, 1], and its figures."""
        through = course.through
        wanted = self._wanted(course, clean)
        if wanted is not None and through.stop > through.start:
            attacked[through] = attack_course(
                course,
                self.pipeline.unet,
                lambda images: self._decode(self._predict(images)),
                clean,
                attacked,
                wanted,
                steps=self.options.through_steps,
            )
        with torch.no_grad():
            target = self._encode(clean)
        predicted = self._predict(attacked)
        loss = self.options.latent_weight * _pseudo_huber(predicted - target)
        figures = {"latents": (predicted - target).detach().square().mean().sqrt()}
        if self.options.pixel_weight or self.options.feature_weight:
            decoded, more = self._decoded_loss(course, clean, self._decode(predicted), wanted)
            loss, figures = loss + decoded, figures | more
        return loss, figures

    def _wanted(self, course: Course, clean: Tensor) -> Tensor | None:
        """The clean images' features, where anything asks for them."""
        if not self.options.feature_weight and course.through.stop == course.through.start:
            return None
        with torch.no_grad():
            return course.guide.encoder_features(clean).float()

    def _decoded_loss(
        self, course: Course, clean: Tensor, purified: Tensor, wanted: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        error = purified - clean
        loss = self.options.pixel_weight * error.abs().mean()
        figures = {"psnr": -10 * torch.log10(error.detach().square().mean())}
        if self.options.feature_weight and wanted is not None:
            distances = feature_distance(course.guide, purified, wanted)
            loss = loss + self.options.feature_weight * distances.mean()
            figures["features"] = distances.detach().mean()
        return loss, figures

    def _predict(self, images: Tensor) -> Tensor:
        """The clean latent, in one step from a noise level drawn for every image."""
        pipeline, middle = self.pipeline, self.options.noise_level
        low, high = float(np.log(middle / 2)), float(np.log(min(1.0, middle * 2)))
        levels = torch.empty(len(images), device=images.device).uniform_(low, high).exp()
        timesteps = timesteps_of(pipeline.scheduler, levels, len(images))
        latents = self._encode(images)
        noisy = add_noise(pipeline.scheduler, latents, timesteps, torch.randn_like(latents))
        prompt = pipeline.empty_prompt(len(images))
        with self._autocast(images):
            return predict_clean(
                pipeline.unet, pipeline.scheduler, noisy, timesteps, prompt
            ).float()

    def _encode(self, images: Tensor) -> Tensor:
        with self._autocast(images):
            return encode(self.pipeline.vae, images).float()

    def _decode(self, latents: Tensor) -> Tensor:
        with self._autocast(latents):
            return decode(self.pipeline.vae, latents).float()

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, self.dtype, enabled=self.dtype != torch.float32)


def train_latent_purifier(
    pipeline: LatentPurificationPipeline,
    courses: Sequence[Course],
    world: World,
    folder: Path,
    settings: LoopSettings,
    *,
    options: LatentOptions = LatentOptions(),
    seed: int = 0,
) -> PeftModel:
    """Tune adapters on the network of ``pipeline``; the noise level is drawn for every image.

    Args:
        pipeline: The base, which gains the adapters; all else in it stays as it is. Sides of the
            courses' images are multiples of its ``padding_multiple``.
        courses: What it learns from, all in every step.
        world: For crops that nobody attacked.
        folder: Where the checkpoint goes: of the adapters alone.
        settings: Length and rates.
        options: What the loss is.
        seed: Of data, noise and adapters.

    Returns:
        The adapters, for ``save_adapters``.

    Raises:
        ValueError: Images of a course have other sides.
    """
    _check_sides(courses, pipeline.padding_multiple)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for component in (pipeline.vae, pipeline.unet, pipeline.empty_prompt):
        component.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    # A step that is captured as a CUDA graph may not wait for the schedule from the host.
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod.to(device)
    adapters = attach_adapters(pipeline.unet, rank=options.rank)
    trained = nn.ParameterList(p for p in adapters.parameters() if p.requires_grad)
    train_on_courses(
        trained,
        LatentLoss(pipeline, compute_dtype(device), options),
        courses,
        world,
        settings,
        checkpoint=folder / "latent-purifier.pt",
        device=device,
        seed=seed,
    )
    return adapters


def _check_sides(courses: Sequence[Course], multiple: int) -> None:
    for course in courses:
        height, width = course.pairs.clean.shape[-2:]
        if height % multiple or width % multiple:
            raise ValueError(f"{height}x{width} pairs: sides must be multiples of {multiple}")


def _pseudo_huber(difference: Tensor) -> Tensor:
    """√(d² + c²) - c, as LCM trains (Luo et al. 2023, appendix): L1 but for the smallest."""
    return ((difference.square() + HUBER_SCALE**2).sqrt() - HUBER_SCALE).mean()
