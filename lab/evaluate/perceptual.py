"""A perceptual distance in LPIPS's form on whatever network gives feature maps.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
equation 1, with three deviations: every channel has weight one, as nothing was fitted to human
judgement; layers are averaged, not summed, so that networks of any depth compare; the network is
the caller's. It is therefore not LPIPS, and its figures are never mixed with LPIPS's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codefend.models.quantise import dequantise

__all__ = ["FeatureMaps", "PerceptualDistance", "perceptual_distance"]

_TINY = 1e-10  # keeps a place without any feature at zero


class FeatureMaps(Protocol):
    """What a network sees in images."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) float in [0, 1] to feature maps, (B, C, H', W') each."""


@torch.no_grad()
def perceptual_distance(features: FeatureMaps, images: Tensor, references: Tensor) -> Tensor:
    """How far images are from references in the features' eyes.

    At each place of each map the features are scaled to unit length; their squared difference,
    summed over channels, is averaged over places and then over maps.

    Args:
        features: the network.
        images: (B, 3, H, W) float in [0, 1].
        references: as many, of the same size.

    Returns:
        (B,), from 0 where all maps agree in direction to 4 where they are opposed.

    Raises:
        ValueError: Shapes differ, or the network gives no map.
    """
    if images.shape != references.shape:
        raise ValueError(f"shapes differ: {tuple(images.shape)}, {tuple(references.shape)}")
    pairs = zip(features(images), features(references), strict=True)
    layers = [_layer_distance(ours, theirs) for ours, theirs in pairs]
    if not layers:
        raise ValueError("the network gives no feature map")
    return torch.stack(layers).mean(dim=0)


def _layer_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    difference = (_unit(ours) - _unit(theirs)).square().sum(dim=1)
    return difference.mean(dim=(1, 2))


def _unit(features: Tensor) -> Tensor:
    """Each place's feature vector at length one."""
    values = features.float()
    return values / (values.square().sum(dim=1, keepdim=True).sqrt() + _TINY)


@dataclass(frozen=True, slots=True)
class PerceptualDistance:
    """The distance between pictures as bytes.

    Attributes:
        name: of the network and its weights; caches keep figures of different ones apart.
        features: the network, on the CPU.
    """

    name: str
    features: FeatureMaps

    def __call__(self, image: np.ndarray, reference: np.ndarray) -> float:
        """The distance of two pictures, (H, W, 3) uint8 each."""
        pixels = dequantise(torch.from_numpy(np.stack([image, reference])))
        return float(perceptual_distance(self.features, pixels[:1], pixels[1:]))
