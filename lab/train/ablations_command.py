"""``codefend-lab train ablations``: trainings that differ in one part, at equal steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from codefend.lab.encoders.releases import RESNET
from codefend.lab.train.options import WORLD_FILE, Seed, WorldFile
from codefend.lab.train.photographs_command import PACKAGES, photographs
from codefend.lab.victims.classifier import TRAINING_CLASSIFIER

__all__ = ["VARIANTS", "ablations"]

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "no_leaves": {"leaves_share": 0.0},
    "one_encoder": {"encoders": TRAINING_CLASSIFIER},
    "two_encoders": {"encoders": f"{TRAINING_CLASSIFIER},{RESNET}"},
    "fresh_noise": {"replayed": False},
    "no_jpeg": {"jpeg_share": 0.0},
}
"""The recipe as a whole, then without one of its parts each; options of ``photographs``."""


def ablations(
    *,
    runs: Annotated[
        Path, typer.Option("--runs", help="A folder for each variant; each resumes.")
    ] = Path("work/ablations"),
    variants: Annotated[
        str, typer.Option(help=f"Comma-separated, of {', '.join(VARIANTS)}.")
    ] = ",".join(VARIANTS),
    world: WorldFile = WORLD_FILE,
    packages: Annotated[
        Path, typer.Option(help="Folder that the world's photographs were read from.")
    ] = PACKAGES,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each.")] = 400,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 16,
    size_px: Annotated[int, typer.Option(help="Side of a picture.")] = 64,
    ema_decay: Annotated[float, typer.Option(help="Of the weights that are kept.")] = 0.98,
    num_workers: Annotated[int, typer.Option(help="Processes that make batches.")] = 0,
    seed: Seed = 0,
) -> None:
    """Train each variant of the recipe for equally few steps, from the same start and seed.

    ``codefend-lab classify --network NAME=RUNS/NAME/purifier --defences NAME:0.05`` compares.
    """
    for name in variants.split(","):
        if name not in VARIANTS:
            raise typer.BadParameter(f"{name} is none of {', '.join(VARIANTS)}")
        photographs(
            runs=runs / name,
            weights=runs / name,
            world=world,
            packages=packages,
            steps=steps,
            batch_size=batch_size,
            size_px=size_px,
            ema_decay=ema_decay,
            num_workers=num_workers,
            version=name,
            seed=seed,
            **VARIANTS[name],
        )
