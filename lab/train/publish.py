"""From a training folder to ``models/weights``: fp16 safetensors, a manifest entry, no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from lab.detection.calibration import save_detector
from models.detector.network import SuspicionDetector
from models.manifest import WEIGHTS_DIRECTORY, describe_weights, read_manifest, write_manifest
from models.purifier.pipeline import PurificationPipeline

__all__ = ["publish_detector", "publish_mllm", "publish_purifier", "record_figures"]

LICENCE = "Apache-2.0"


def publish_mllm(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    name: str,
    command: str,
    weights: Path = WEIGHTS_DIRECTORY,
) -> None:
    """Save an MLLM in half precision and list it."""
    model.to(torch.float16).save_pretrained(weights / name)
    processor.save_pretrained(weights / name)
    _list(name, command, weights)


def publish_purifier(
    network: UNet2DModel,
    *,
    name: str,
    version: str,
    noise_level: float,
    command: str,
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
    _list(name, command, weights)


def publish_detector(
    detector: SuspicionDetector, *, command: str, weights: Path = WEIGHTS_DIRECTORY
) -> None:
    """Save a calibrated detector in half precision and list it."""
    save_detector(detector, weights / "detector")
    _list("detector", command, weights)


def record_figures(name: str, figures: dict[str, Any], weights: Path = WEIGHTS_DIRECTORY) -> None:
    """Write what some weights reached into their manifest entry."""
    entry = next(entry for entry in read_manifest(weights) if entry.name == name)
    _list(name, entry.command, weights, {**entry.figures, **figures})


def _list(name: str, command: str, weights: Path, figures: dict[str, Any] | None = None) -> None:
    entry = describe_weights(
        name, licence=LICENCE, command=command, figures=figures or {}, directory=weights
    )
    try:
        others = [other for other in read_manifest(weights) if other.name != name]
    except FileNotFoundError:
        others = []
    write_manifest([*others, entry], weights)
