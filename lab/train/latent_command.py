"""The latent half of ``codefend-lab train``: a base to stand for Stable Diffusion, and adapters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.errors import LabError
from codefend.lab.train.courses import Course
from codefend.lab.train.latent_base import train_autoencoder, train_latent_base
from codefend.lab.train.latent_purifier import LatentOptions, train_latent_purifier
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.options import (
    DEFAULT_WORKERS,
    LATENT_WEIGHTS,
    RUNS,
    WORLD_FILE,
    Batch,
    CropSide,
    Minutes,
    Runs,
    Seed,
    Steps,
    Weights,
    Workers,
    WorldFile,
)
from codefend.lab.train.publish import publish_adapters, publish_latent, this_command
from codefend.lab.world.compose import World
from codefend.models.purifier.adapters import AdapterSettings
from codefend.models.purifier.loading import load_latent_purifier

__all__ = ["Tuning", "latent_base", "tune_adapters"]


def latent_base(
    world: WorldFile = WORLD_FILE,
    runs: Runs = RUNS,
    weights: Weights = LATENT_WEIGHTS,
    autoencoder_steps: Steps = 3000,
    steps: Steps = 3000,
    autoencoder_minutes: Minutes = math.inf,
    minutes: Minutes = math.inf,
    batch_size: Batch = 16,
    num_workers: Workers = DEFAULT_WORKERS,
    crop_px: CropSide = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak, of both.")] = 1e-3,
    seed: Seed = 0,
) -> None:
    """Train a small autoencoder and a latent network: they stand for Stable Diffusion."""

    def lasting(num_steps: int, max_minutes: float) -> LoopSettings:
        return LoopSettings(
            num_steps=num_steps,
            learning_rate=learning_rate,
            warmup_steps=100,
            ema_decay=0.995,
            weight_decay=0.0,
            max_minutes=max_minutes,
            num_workers=num_workers,
        )

    scenes = World(world)
    autoencoder = train_autoencoder(
        scenes,
        runs,
        lasting(autoencoder_steps, autoencoder_minutes),
        batch_size=batch_size,
        size_px=crop_px,
        seed=seed,
    )
    pipeline = train_latent_base(
        autoencoder,
        scenes,
        runs,
        lasting(steps, minutes),
        batch_size=batch_size,
        size_px=crop_px,
        seed=seed,
    )
    publish_latent(pipeline, name="latent-base", command=this_command(), weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Where adapters come from and go to.

    Attributes:
        base: Directory or hub id of Stable Diffusion, or of `train latent-base`.
        weights: Where they go.
        version: Name of this training.
        autoencoder: In place of the base's own: directory or hub id.
    """

    base: str
    weights: Path
    version: str = "1"
    autoencoder: str | None = None


def tune_adapters(
    tuning: Tuning,
    courses: Sequence[Course],
    world: World,
    runs: Path,
    settings: LoopSettings,
    *,
    options: LatentOptions,
    seed: int = 0,
) -> None:
    """Load a latent base, tune adapters on it and publish them as ``latent-purifier``.

    Args:
        tuning: Which base, and where the adapters go.
        courses: What they learn from.
        world: For crops that nobody attacked.
        runs: Folder of checkpoints.
        settings: Length and rates.
        options: What the loss is.
        seed: Of data, noise and adapters.

    Raises:
        LabError: There is no such base, or the pairs do not suit it.
    """
    try:
        pipeline = load_latent_purifier(tuning.base, autoencoder=tuning.autoencoder)
    except (OSError, ValueError) as error:
        raise LabError(f"no latent base in {tuning.base}: {error}") from error
    try:
        adapters = train_latent_purifier(
            pipeline, courses, world, runs, settings, options=options, seed=seed
        )
    except ValueError as error:
        raise LabError(str(error)) from error
    publish_adapters(
        adapters,
        pipeline,
        base=tuning.base,
        settings=AdapterSettings(
            noise_level=options.noise_level,
            version=tuning.version,
            autoencoder=tuning.autoencoder,
        ),
        command=this_command(),
        weights=tuning.weights,
    )
