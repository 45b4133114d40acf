"""From a training folder to finished weights: fp16 safetensors, a manifest entry, no pickle."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from codefend.lab.detection.scoring import save_detector
from codefend.lab.errors import LabError
from codefend.lab.progress import progress
from codefend.lab.train.detector import calibration_images
from codefend.lab.world.compose import World
from codefend.models.detector.network import SuspicionDetector
from codefend.models.manifest import (
    WEIGHTS_DIRECTORY,
    describe_weights,
    read_manifest,
    write_manifest,
)
from codefend.models.packed import pack, packed_files
from codefend.models.purifier.adapters import AdapterSettings, save_adapters
from codefend.models.purifier.eight_bit import measured_ranges
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.loading import load_purifier
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.ranges import RANGES_NAME, write_ranges
from codefend.models.quantise import dequantise

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = [
    "pack_published",
    "publish_adapters",
    "publish_detector",
    "publish_latent",
    "publish_mllm",
    "publish_purifier",
    "publish_ranges",
]

LICENCE = "Apache-2.0"
_BATCH = 16
_ATTACK = 16 / 255


def publish_mllm(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    name: str,
    weights: Path = WEIGHTS_DIRECTORY,
) -> None:
    """Save an MLLM in half precision and list it."""
    model.to(torch.float16).save_pretrained(weights / name)
    processor.save_pretrained(weights / name)
    _list(name, weights)


def publish_purifier(
    network: UNet2DModel,
    *,
    name: str,
    version: str,
    noise_level: float,
    num_steps: int = 1,
    weights: Path = WEIGHTS_DIRECTORY,
) -> None:
    """Save a base or purifier network as a pipeline in half precision and list it."""
    pipeline = PurificationPipeline(
        network.to(torch.float16),
        noise_level=noise_level,
        num_steps=num_steps,
        name=name,
        version=version,
    )
    pipeline.save_pretrained(weights / name)
    (weights / name / RANGES_NAME).unlink(missing_ok=True)  # of the weights before these
    _list(name, weights)


def publish_ranges(purifier: Path, world: World, num_images: int, seed: int) -> None:
    """Writes the ranges beside the weights and into their manifest.

    They are those of validation scenes, photos and text.

    Each picture comes clean and with random signs of 16/255, as large as any attack is tried here.

    Args:
        purifier: Directory of a pixel purifier of one step.
        world: Where pictures are from.
        num_images: How many; half as many again are altered benignly.
        seed: Of pictures and noise.

    Raises:
        ValueError: The purifier is of another kind.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = calibration_images(world, num_images, seed=seed)
    batches = [
        group[start : start + _BATCH] for group in groups for start in range(0, len(group), _BATCH)
    ]

    def pictures() -> Iterator[Tensor]:
        for batch in progress(batches, desc="ranges", unit="batch"):
            clean = dequantise(torch.from_numpy(np.stack(batch)))
            signs = torch.randint(2, clean.shape, generator=generator) * 2 - 1
            yield clean
            yield (clean + _ATTACK * signs).clamp(0, 1)

    ranges = measured_ranges(load_purifier(purifier), pictures(), generator)
    write_ranges(purifier, ranges)
    _list_again(purifier)


def _list_again(folder: Path) -> None:
    """List what lies in a folder now, if it is listed at all."""
    with contextlib.suppress(OSError):
        listed = [entry for entry in read_manifest(folder.parent) if entry.name == folder.name]
        for entry in listed:
            _list(entry.name, folder.parent, command=entry.command, figures=entry.figures)


def publish_detector(detector: SuspicionDetector, weights: Path = WEIGHTS_DIRECTORY) -> None:
    """Save a calibrated detector in half precision and list it."""
    save_detector(detector, weights / "detector")
    _list("detector", weights)


def publish_latent(pipeline: LatentPurificationPipeline, *, name: str, weights: Path) -> None:
    """Save a latent pipeline in half precision and list it."""
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            nn.Module.to(component, torch.float16)
    pipeline.save_pretrained(weights / name)
    _list(name, weights)


def publish_adapters(
    adapters: PeftModel,
    pipeline: LatentPurificationPipeline,
    *,
    base: str,
    settings: AdapterSettings,
    weights: Path,
) -> None:
    """Save adapters in half precision, in a folder of their name, and list them.

    Args:
        adapters: Trained.
        pipeline: The base that they were trained on; it loses its precision.
        base: Its directory or hub id.
        settings: How they are served.
        weights: Where the folder goes.
    """
    save_adapters(
        adapters.to(torch.float16),
        weights / settings.name,
        base=base,
        settings=settings,
        empty_prompt=pipeline.empty_prompt,
    )
    _list(settings.name, weights)


def _this_command() -> str:
    """The command line, as manifests record it."""
    return shlex.join(["codefend-lab", *sys.argv[1:]])


def pack_published(name: str, *, to_int8: bool, weights: Path = WEIGHTS_DIRECTORY) -> None:
    """Store listed weights in fewer bytes; what made them, and what they reached, stays listed.

    Args:
        name: Of the entry.
        to_int8: Round matrices and kernels to 8 bits.
        weights: Where the manifest is.

    Raises:
        LabError: No such weights are listed.
    """
    found = [entry for entry in read_manifest(weights) if entry.name == name]
    if not found:
        raise LabError(f"{weights} lists no weights called {name}")
    pack(weights / name, to_int8=to_int8)
    _list(name, weights, command=found[0].command, figures=found[0].figures)


def _list(
    name: str, weights: Path, *, command: str = "", figures: dict[str, Any] | None = None
) -> None:
    for packed in set((weights / name).rglob("*.xz")) - set(packed_files(weights / name)):
        packed.unlink()  # of the weights before these
    entry = describe_weights(
        name,
        licence=LICENCE,
        command=command or _this_command(),
        figures=figures or {},
        directory=weights,
    )
    try:
        others = [other for other in read_manifest(weights) if other.name != name]
    except FileNotFoundError:
        others = []
    write_manifest([*others, entry], weights)
