"""A small convolutional network over an upload and what the purifier took out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from codefend.models.quantise import dequantise

__all__ = ["DetectorGraph", "SuspicionDetector"]

_UNSHUFFLE = 2
_RESIDUAL_SCALE = 16.0  # what a purifier takes out is at most about 1/16 of the range


class SuspicionDetector(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Scores uploads; higher means that they look more attacked.

    It sees the upload x beside x - D(x), the residual of its purification: adversarial noise is
    what a purifier removes, and its texture differs from that of sensors and codecs. The same idea
    with hand-made filters is Liang et al. 2017, "Detecting Adversarial Image Examples in Deep
    Networks with Adaptive Noise Reduction"; the network learns what to look for.

    Saved and loaded as every ``diffusers`` model: ``save_pretrained``, ``from_pretrained``.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        widths: Sequence[int] = (32, 48, 64, 96),
        clean_quantiles: Sequence[float] = (),
        name: str = "detector",
        version: str = "0",
    ) -> None:
        """Builds the network.

        Args:
            widths: channels of each convolution; all but the first halve the sides.
            clean_quantiles: of ``codefend.models.detector.calibration``; none before calibration.
            name: what manifests and reports call it.
            version: changes with every training.
        """
        super().__init__()
        layers: list[nn.Module] = []
        channels = 6 * _UNSHUFFLE**2
        for number, width in enumerate(widths):
            layers += [
                nn.Conv2d(channels, width, 3, stride=2 if number else 1, padding=1),
                nn.BatchNorm2d(width),
                nn.SiLU(),
            ]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels, 1)

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A real detector with few random weights, for tests."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector: Self = cls(widths=(8, 8), version=str(seed))
        detector.eval()
        return detector

    def forward(self, images: Tensor, purified: Tensor) -> Tensor:
        """Scores a batch.

        Args:
            images: (B, 3, H, W) uploads in [0, 1].
            purified: the same, purified.

        Returns:
            (B,) scores without bounds: logits of having been attacked.

        Raises:
            ValueError: the shapes differ, or are none of images.
        """
        if images.shape != purified.shape or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"no pair of images: {tuple(images.shape)}, {tuple(purified.shape)}")
        residual = _RESIDUAL_SCALE * (images - purified)
        seen = torch.cat([images - 0.5, residual], dim=1)
        height, width = seen.shape[-2:]
        seen = functional.pad(seen, (0, width % _UNSHUFFLE, 0, height % _UNSHUFFLE), "replicate")
        features = self.body(functional.pixel_unshuffle(seen, _UNSHUFFLE)).flatten(2)
        # The spread beside the mean: a patch is a small part of an image, and yet stands out.
        spread = (features.var(dim=2, unbiased=False) + 1e-6).sqrt()
        pooled = torch.cat([features.mean(dim=2), spread], dim=1)
        scores: Tensor = self.head(pooled).squeeze(1)
        return scores


class DetectorGraph(nn.Module):
    """A detector as a function of bytes, as engines run and convert it."""

    def __init__(self, detector: SuspicionDetector) -> None:
        """Takes a detector, on the device where it is to run.

        Args:
            detector: In single precision.
        """
        super().__init__()
        self.detector = detector
        self.eval().requires_grad_(False)

    def forward(self, uploads: Tensor, purified: Tensor) -> Tensor:
        """Scores (B,) of uploads and of the same, purified: both (B, H, W, 3) uint8."""
        scores: Tensor = self.detector(dequantise(uploads), dequantise(purified))
        return scores
