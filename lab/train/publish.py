"""From a training folder to finished weights: fp16 safetensors, a manifest entry, no pickle."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DModel
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from codefend.lab.detection.scoring import save_detector
from codefend.lab.errors import LabError
from codefend.models.detector.network import SuspicionDetector
from codefend.models.manifest import (
    WEIGHTS_DIRECTORY,
    describe_weights,
    read_manifest,
    write_manifest,
)
from codefend.models.packed import pack, packed_files
from codefend.models.purifier.adapters import AdapterSettings, save_adapters
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.ranges import RANGES_NAME

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


def publish_ranges(folder: Path) -> None:
    """List the ranges that were measured of a purifier's weights, if the weights are listed."""
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
