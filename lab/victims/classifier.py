"""An ImageNet classifier seen from its pixels: real pretrained vision, attacked and scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from codefend.lab.victims.preprocess import Preprocess

__all__ = ["ClassifierVictim"]


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


@dataclass(frozen=True, slots=True)
class ClassifierVictim:
    """A frozen image classifier.

    Attributes:
        name: what reports call it.
        network: preprocessed images to logits, in eval mode; its parameters take no gradients.
        preprocess: from images to what the network was trained on, differentiably.
        sha256: hash of the weights file, hexadecimal.
        chances: logits (B, num_classes) to how sure it is of each class, in [0, 1].
    """

    name: str
    network: nn.Module
    preprocess: Preprocess
    sha256: str
    chances: Callable[[Tensor], Tensor] = _softmax

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        tensors = chain(self.network.parameters(), self.network.buffers())
        return next(tensors).device

    def logits(self, images: Tensor) -> Tensor:
        """Scores of all classes, differentiable in the images.

        Args:
            images: (B, 3, H, W) float in [0, 1], any H and W.

        Returns:
            (B, num_classes) float32, on the images' device.
        """
        logits: Tensor = self.network(self.preprocess(images.to(self.device)))
        return logits.float().to(images.device)

    def encoder_features(self, images: Tensor) -> Tensor:
        """The last feature map, place by place: (B, h·w, C) float32, differentiable."""
        pixels = self.preprocess(images.to(self.device))
        features: Tensor = self.network.extract_features(pixels)  # type: ignore[operator]
        return features.flatten(2).transpose(1, 2).float().to(images.device)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The likeliest class of each image: (B,) int64."""
        return self.logits(images).argmax(dim=1)
