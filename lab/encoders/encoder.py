"""Frozen encoders by name, with their features at several depths: what attacks and losses see."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor, nn

from codefend.lab.encoders.graph import Graph
from codefend.lab.encoders.onnx_reader import read_onnx
from codefend.lab.encoders.releases import (
    DETECTOR,
    ENCODERS_FOLDER,
    MOBILENET,
    RELEASES,
    RESNET,
    read_release,
)
from codefend.lab.encoders.tfjs_reader import packed_bytes, packed_json, read_tfjs
from codefend.lab.errors import LabError
from codefend.lab.victims.classifier import (
    HELD_OUT,
    TRAINING_CLASSIFIER,
    ClassifierVictim,
    feature_maps,
    load_classifier,
)
from codefend.lab.victims.preprocess import Preprocess
from codefend.lab.victims.resizing import PixelScale, ResizeCrop
from codefend.lab.victims.victim import load_victim

__all__ = [
    "CLASSIFIERS",
    "TRAINING_ENCODERS",
    "Encoder",
    "load_any_classifier",
    "load_encoder",
]

TRAINING_ENCODERS = (
    TRAINING_CLASSIFIER,
    *(name for name, each in RELEASES.items() if each.may_train),
)
CLASSIFIERS = (TRAINING_CLASSIFIER, HELD_OUT, DETECTOR)
"""What is attacked and scored; the last two no training ever sees."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A frozen encoder, as attacks on features and losses see it.

    Attributes:
        name: what reports call it.
        num_depths: how many places in the network can be looked at; the last is the deepest.
        maps_at: images and depths to maps (B, C, h, w), or to features (B, places, C).
    """

    name: str
    num_depths: int
    maps_at: Callable[[Tensor, Sequence[int]], list[Tensor]]

    def features_at(self, images: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """Features at some depths, differentiably.

        Args:
            images: (B, 3, H, W) float in [0, 1], read at their own size.
            depths: indices below ``num_depths``.

        Returns:
            (B, places, C) float32 each.
        """
        found = self.maps_at(images, depths)
        return [(m.flatten(2).transpose(1, 2) if m.ndim == 4 else m).float() for m in found]


def load_encoder(source: str, *, device: str = "cpu", folder: Path = ENCODERS_FOLDER) -> Encoder:
    """An encoder that training may see.

    Args:
        source: one of ``TRAINING_ENCODERS``, or an MLLM's directory, whose vision tower it is.
        device: torch device.
        folder: where ``codefend-lab data encoders`` put the packages' files.

    Raises:
        LabError: It is held out, is not there, or is not the released one.
    """
    if source == TRAINING_CLASSIFIER:
        classifier = load_classifier(TRAINING_CLASSIFIER, device=device, resized=False)
        classifier.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def maps_at(images: Tensor, depths: Sequence[int]) -> list[Tensor]:
            maps = feature_maps(classifier, images, max(depths) + 2)[1:]
            return [maps[depth] for depth in depths]

        return Encoder(TRAINING_CLASSIFIER, 4, maps_at)
    if source in _READ:
        return _READ[source](folder, device)
    if source in {HELD_OUT, *RELEASES}:
        raise LabError(f"{source} is held out: {', '.join(TRAINING_ENCODERS)} may be trained on")
    victim = load_victim(source, device=device)
    return Encoder(Path(source).name, 1, lambda x, ds: [victim.encoder_features(x)] * len(ds))


def load_any_classifier(
    name: str, *, device: str = "cpu", folder: Path = ENCODERS_FOLDER
) -> ClassifierVictim:
    """A classifier to be attacked and scored, by the names in ``CLASSIFIERS``.

    Raises:
        LabError: There is none of that name, or its packages are not there.
    """
    if name not in CLASSIFIERS:
        raise LabError(f"unknown classifier {name}; known: {', '.join(CLASSIFIERS)}")
    if name == DETECTOR:
        return _detector(folder, device)
    classifier = load_classifier(name, device=device)
    classifier.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def _of_graph(
    name: str,
    graph: Graph,
    stages: Sequence[str],
    enter: Callable[[Tensor], Tensor],
    leave: Callable[[Tensor], Tensor] = lambda maps: maps,
) -> Encoder:
    """A network read from a file.

    Args:
        name: what reports call it.
        graph: the network.
        stages: names of the values at its depths.
        enter: images (B, 3, H, W) in [0, 1], where the graph is, to what it takes.
        leave: its values to maps (B, C, h, w) or features (B, places, C).
    """

    def maps_at(images: Tensor, depths: Sequence[int]) -> list[Tensor]:
        found = graph(enter(images.to(graph.device)), [stages[depth] for depth in depths])
        return [leave(each) for each in found]

    return Encoder(name, len(stages), maps_at)


_RESNET_STAGES = ("Relu_9:0", "Relu_21:0", "Relu_39:0", "Relu_48:0")
_RESNET_MEAN_BGR = (104.0, 117.0, 123.0)


def _resnet(folder: Path, device: str) -> Encoder:
    """ResNet-50-thin: blue first, the mean subtracted, (B, H, W, C)."""
    (content,) = read_release(RESNET, folder).values()
    mean = torch.tensor(_RESNET_MEAN_BGR, device=device)
    return _of_graph(
        RESNET,
        read_onnx(content).to(device),
        _RESNET_STAGES,
        lambda images: (images * 255.0).flip(1).permute(0, 2, 3, 1) - mean,
    )


_MOBILENET_SCOPE = (
    "StatefulPartitionedCall/sequential/keras_layer/StatefulPartitionedCall/"
    "StatefulPartitionedCall/StatefulPartitionedCall/predict/MobilenetV2"
)
_MOBILENET_STAGES = tuple(
    f"{_MOBILENET_SCOPE}/{block}"
    for block in (
        "expanded_conv_2/add",
        "expanded_conv_5/add",
        "expanded_conv_12/add",
        "Conv_1/Relu6",
    )
)


def mobilenet_graph(folder: Path, outputs: Sequence[str] = _MOBILENET_STAGES) -> Graph:
    """MobileNetV2 at 1.4 times its width; it takes (B, H, W, 3) in [0, 1]."""
    files = {name: content.decode() for name, content in read_release(MOBILENET, folder).items()}
    shards = sorted(name for name in files if "shard" in name)
    weights = b"".join(packed_bytes(files[name]) for name in shards)
    return read_tfjs(packed_json(files["model.min.js"]), weights, outputs)


def _mobilenet(folder: Path, device: str) -> Encoder:
    return _of_graph(
        MOBILENET,
        mobilenet_graph(folder).to(device),
        _MOBILENET_STAGES,
        lambda images: images.permute(0, 2, 3, 1),
        lambda maps: maps.permute(0, 3, 1, 2),
    )


_READ: dict[str, Callable[[Path, str], Encoder]] = {RESNET: _resnet, MOBILENET: _mobilenet}

DETECTOR_SIDE_PX = 256
DETECTOR_LOGITS = "tower_0/CenternetHead/centernet_cls_output/BiasAdd"
_DETECTOR_OWN_SIDE_PX = 512
_RESIZE_SIZES = tuple(
    f"tower_0/CenternetHead/c{stage}_upsample/up_sampling2d{number}/mul"
    for stage, number in ((5, ""), (4, "_1"), (3, "_2"))
)


class _ObjectNames(nn.Module):
    """CenterNet as a classifier: of every class, its highest logit over all places."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) levels in [0, 255] to (B, 80) logits, each of a sigmoid of its own."""
        (logits,) = self.graph(pixels.permute(0, 2, 3, 1), [DETECTOR_LOGITS])
        found: Tensor = logits.amax(dim=(1, 2))
        return found


def detector_graph(folder: Path, side_px: int = _DETECTOR_OWN_SIDE_PX) -> Graph:
    """CenterNet on MobileNetV3 up to its class logits; it takes (B, side, side, 3) in [0, 255]."""
    files = read_release(DETECTOR, folder)
    model: dict[str, Any] = json.loads(files["centernet.json"])
    first = side_px // 16
    sizes = {name: torch.tensor([first << stage] * 2) for stage, name in enumerate(_RESIZE_SIZES)}
    return read_tfjs(model, files["centernet.bin"], [DETECTOR_LOGITS], replaced=sizes)


def _detector(folder: Path, device: str) -> ClassifierVictim:
    scale = PixelScale(rescale_factor=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    preprocess = Preprocess(
        ResizeCrop(
            shortest_edge=DETECTOR_SIDE_PX,
            resample=Resampling.BILINEAR,
            crop=(DETECTOR_SIDE_PX, DETECTOR_SIDE_PX),
            scale=scale,
        )
    )
    network = _ObjectNames(detector_graph(folder, DETECTOR_SIDE_PX)).eval().to(device)
    return ClassifierVictim(
        DETECTOR, network, preprocess, RELEASES[DETECTOR].sha256, chances=torch.sigmoid
    )
