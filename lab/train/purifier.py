"""The purifier: the base, fine-tuned on pairs to give back the clean image in one step.

Supervised diffusion purification with task guidance (CoDefend, arXiv 2510.11096): a reconstruction
loss in pixels and the distance of a vision encoder's features from those of the clean image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor

from codefend.lab.precision import compute_dtype
from codefend.lab.train.course_training import train_on_courses
from codefend.lab.train.courses import TrainingSource
from codefend.lab.train.crops import PhotoSource
from codefend.lab.train.guidance import attack_course, feature_distance
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.online import OnlineLoss, OnlineOptions, OnlineSource
from codefend.models.purifier.denoiser import denoise

__all__ = ["PurifierLoss", "PurifierOptions", "train_purifier"]

NOISE_RANGE = (0.01, 0.12)


@dataclass(frozen=True, slots=True, kw_only=True)
class PurifierOptions:
    """What is minimised, and how it is computed.

    Attributes:
        feature_weight: Weight of the features beside the pixels; 0 leaves them out.
        through_steps: Gradient steps of attacks through the network.
        compiled: Compile the network: one graph for training and one for attacks, of each size.
        online: How pictures are attacked that no pair is stored of.
    """

    feature_weight: float = 0.1
    through_steps: int = 5
    compiled: bool = False
    online: OnlineOptions = field(default_factory=OnlineOptions)


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
        self, course: TrainingSource, clean: Tensor, attacked: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one source's batch (B, 3, H, W) float in [0, 1], and its figures."""
        if isinstance(course, OnlineSource):
            return OnlineLoss(self.network, self.dtype, self.options.online)(course, clean)
        guide, through = course.guide, course.through
        with torch.no_grad():
            wanted = guide.encoder_features(clean).float()
        if through.stop > through.start:
            attacked[through] = attack_course(
                course,
                self.network,
                self._purify,
                clean,
                attacked,
                wanted,
                steps=self.options.through_steps,
            )
        purified = self._purify(attacked)
        distances = feature_distance(guide, purified, wanted)
        pixels = (purified - clean).abs().mean()
        psnr = -10 * torch.log10((purified.clamp(0, 1) - clean).square().mean())
        figures = {"psnr": psnr.detach(), "features": distances.detach().mean()}
        if through.stop > through.start:
            figures["through"] = distances[through].detach().mean()
        return pixels + self.options.feature_weight * distances.mean(), figures

    def _purify(self, images: Tensor) -> Tensor:
        """One step from a noise level drawn for every image; not clamped."""
        low, high = (float(np.log(level)) for level in NOISE_RANGE)
        sigma = torch.empty(len(images), device=images.device).uniform_(low, high).exp()
        noisy = images + sigma.view(-1, 1, 1, 1) * torch.randn_like(images)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return denoise(self.network, noisy, sigma).float()


def train_purifier(
    network: UNet2DModel,
    courses: Sequence[TrainingSource],
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

    train_on_courses(
        network,
        loss,
        courses,
        world,
        settings,
        checkpoint=folder / "purifier.pt",
        device=device,
        seed=seed,
    )
    return network
