"""The options that the training commands share: types, help and defaults."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.train.loop import default_workers

__all__ = [
    "DEFAULT_WORKERS",
    "LATENT_WEIGHTS",
    "RUNS",
    "WORLD_FILE",
    "Batch",
    "CleanShare",
    "Compiled",
    "CropShare",
    "CropSide",
    "FeatureWeight",
    "Minutes",
    "NoiseLevel",
    "PurifierBase",
    "PurifierKind",
    "Runs",
    "Seed",
    "Steps",
    "ThroughShare",
    "ThroughSteps",
    "Version",
    "VictimSource",
    "Weights",
    "Workers",
    "WorldFile",
]


class PurifierKind(StrEnum):
    """Where a purifier works."""

    PIXEL = "pixel"
    LATENT = "latent"


WorldFile = Annotated[Path, typer.Option("--world", help="World file from `data build`.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of checkpoints.")]
Weights = Annotated[Path, typer.Option(help="Where finished weights go.")]
Minutes = Annotated[float, typer.Option(help="Stop after so many minutes of training.")]
Steps = Annotated[int, typer.Option(help="Optimiser steps.")]
Batch = Annotated[int, typer.Option("--batch-size", help="Images a step.")]
CropSide = Annotated[int, typer.Option("--crop-px", help="Side of the training crops.")]
Workers = Annotated[int, typer.Option("--num-workers", help="Processes that make batches.")]
Seed = Annotated[int, typer.Option(help="Of data, weights and noise.")]
PurifierBase = Annotated[
    str, typer.Option("--base", help="Pipeline to start from; of a latent one, or a hub id.")
]
FeatureWeight = Annotated[float, typer.Option(help="0 leaves the feature loss out.")]
ThroughShare = Annotated[
    float, typer.Option(help="Share of a batch attacked through the purifier itself.")
]
ThroughSteps = Annotated[int, typer.Option(help="Gradient steps of that attack.")]
CleanShare = Annotated[float, typer.Option(help="Share of a batch not attacked.")]
CropShare = Annotated[float, typer.Option(help="Share that is clean crops of photos and text.")]
Compiled = Annotated[bool, typer.Option(help="Compile the network first: minutes.")]
NoiseLevel = Annotated[
    float, typer.Option(help="Default of the finished one; 0.05, or 0.1 if latent, where 0.")
]
Version = Annotated[str, typer.Option(help="Name of this training.")]
VictimSource = Annotated[str, typer.Option("--victim", help="Model directory or hub id.")]

DEFAULT_WORKERS = default_workers()
WORLD_FILE = Path("work/world.npz")
RUNS = Path("work/runs")
LATENT_WEIGHTS = Path("work/latent")
