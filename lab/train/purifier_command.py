"""``codefend-lab train purifier`` and ``train recipe``: from pairs, or from nothing, to weights."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.errors import LabError
from codefend.lab.folders.source import Data
from codefend.lab.train.course_sources import load_course
from codefend.lab.train.courses import Course
from codefend.lab.train.crops import PhotoSource
from codefend.lab.train.latent_command import Tuning, tune_adapters
from codefend.lab.train.latent_purifier import LatentOptions
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.options import (
    DEFAULT_WORKERS,
    LATENT_WEIGHTS,
    RUNS,
    WORLD_FILE,
    Batch,
    CleanShare,
    Compiled,
    CropShare,
    FeatureWeight,
    Minutes,
    NoiseLevel,
    PurifierBase,
    PurifierKind,
    Runs,
    Seed,
    Steps,
    ThroughShare,
    ThroughSteps,
    Version,
    VictimSource,
    Weights,
    Workers,
    WorldFile,
)
from codefend.lab.train.pair_sources import PairSource, make_pairs_together, photos_of
from codefend.lab.train.publish import publish_purifier, this_command
from codefend.lab.train.purifier import PurifierOptions, train_purifier
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.pipeline import PurificationPipeline

__all__ = ["purifier", "recipe"]

RECIPE = (
    f"{WEIGHTS_DIRECTORY / 'mllm'}=24576,96",
    f"{WEIGHTS_DIRECTORY / 'surrogate'}=12288,64",
    "efficientnet-lite0=12288,64",
)


def purifier(
    kind: Annotated[
        PurifierKind, typer.Option(help="latent tunes LoRA adapters on Stable Diffusion.")
    ] = PurifierKind.PIXEL,
    world: WorldFile = WORLD_FILE,
    data: Data = "",
    runs: Runs = RUNS,
    weights: Annotated[
        Path | None,
        typer.Option(help="Where finished weights go; models/weights, or work/latent if latent."),
    ] = None,
    pairs_from: Annotated[Path, typer.Option("--pairs", help="Folder of pairs.")] = RUNS / "pairs",
    victim: VictimSource = str(WEIGHTS_DIRECTORY / "mllm"),
    base_from: PurifierBase = "",
    steps: Steps = 3000,
    minutes: Minutes = math.inf,
    batch_size: Batch = 16,
    learning_rate: Annotated[
        float, typer.Option(help="Peak; 1e-3, or 1e-4 if latent, where 0.")
    ] = 0.0,
    feature_weight: FeatureWeight = 0.1,
    pixel_weight: Annotated[float, typer.Option(help="Latent: of the decoded L1 distance.")] = 1.0,
    latent_weight: Annotated[float, typer.Option(help="Latent: of the latents' distance.")] = 1.0,
    rank: Annotated[int, typer.Option(min=1, help="Latent: of the adapters.")] = 64,
    autoencoder: Annotated[
        str, typer.Option(help="Latent: a tiny one, say, for the base's own; directory or hub id.")
    ] = "",
    beside: Annotated[
        list[str] | None,
        typer.Option(help="Learn from these pairs too: VICTIM=FOLDER,BATCH; may be repeated."),
    ] = None,
    through_share: ThroughShare = 0.0,
    through_steps: ThroughSteps = 5,
    clean_share: CleanShare = 0.25,
    crop_share: CropShare = 0.125,
    compiled: Compiled = False,
    num_workers: Workers = DEFAULT_WORKERS,
    noise_level: NoiseLevel = 0.0,
    version: Version = "1",
    seed: Seed = 0,
) -> None:
    """Fine-tune the base on pairs: a pixel network whole, a latent one by LoRA adapters."""
    is_latent = kind is PurifierKind.LATENT
    if is_latent and compiled:
        raise LabError("--compiled is for pixel networks")
    settings = _fine_tuning(
        steps, minutes, learning_rate or (1e-4 if is_latent else 1e-3), num_workers
    )
    shares = _shares(through_share, clean_share, crop_share)
    sources = [f"{victim}={pairs_from},{batch_size}", *(beside or [])]
    start = None if is_latent else _pixel_base(base_from)
    courses = [load_course(source, batch_size, shares) for source in sources]
    if start is None:
        tune_adapters(
            Tuning(
                base=base_from or str(LATENT_WEIGHTS / "latent-base"),
                weights=weights or LATENT_WEIGHTS,
                version=version,
                autoencoder=autoencoder or None,
            ),
            courses,
            World(world),
            runs,
            settings,
            options=LatentOptions(
                noise_level=noise_level or 0.1,
                rank=rank,
                latent_weight=latent_weight,
                pixel_weight=pixel_weight,
                feature_weight=feature_weight,
                through_steps=through_steps,
            ),
            seed=seed,
        )
        return
    _tune_pixels(
        _PixelTuning(
            start,
            weights or WEIGHTS_DIRECTORY,
            noise_level=noise_level or 0.05,
            version=version,
            options=PurifierOptions(
                feature_weight=feature_weight, through_steps=through_steps, compiled=compiled
            ),
        ),
        courses,
        photos_of(world, data),
        runs,
        settings,
        seed=seed,
    )


def recipe(
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="VICTIM=PAIRS,BATCH: pairs to make and images a step; may be repeated. The three "
            "that the shipped one learned from where there is none."
        ),
    ] = None,
    world: WorldFile = WORLD_FILE,
    runs: Runs = Path("work/recipe"),
    weights: Weights = WEIGHTS_DIRECTORY,
    base_from: PurifierBase = "",
    processes: Annotated[
        int, typer.Option(min=0, help="That make pairs together; three quarters of the cores if 0.")
    ] = 0,
    attack_steps: Annotated[int, typer.Option(help="PGD steps of the pairs.")] = 10,
    attack_batch: Annotated[int, typer.Option(help="Images attacked at once.")] = 128,
    steps: Steps = 8000,
    minutes: Minutes = 25.0,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = 1e-3,
    feature_weight: FeatureWeight = 0.2,
    through_share: ThroughShare = 0.35,
    through_steps: ThroughSteps = 5,
    clean_share: CleanShare = 0.125,
    crop_share: CropShare = 0.125,
    compiled: Compiled = False,
    num_workers: Workers = DEFAULT_WORKERS,
    noise_level: NoiseLevel = 0.08,
    version: Version = "1",
    seed: Seed = 0,
) -> None:
    """Make the shipped purifier, pairs and all, in one command that resumes; for one GPU.

    Scenes are composed where they are attacked; further processes attack them together.
    """
    sources = [PairSource.parse(text) for text in source or RECIPE]
    start = _pixel_base(base_from)
    make_pairs_together(
        sources,
        runs,
        processes=processes or max(1, len(os.sched_getaffinity(0)) * 3 // 4),
        batch_size=attack_batch,
        world=world,
        data="",
        size_px=0,
        steps=attack_steps,
        seed=seed,
    )
    shares = _shares(through_share, clean_share, crop_share)
    courses = [
        load_course(f"{s.victim}={s.folder(runs)},{s.batch_size}", sources[0].batch_size, shares)
        for s in sources
    ]
    _tune_pixels(
        _PixelTuning(
            start,
            weights,
            noise_level=noise_level,
            version=version,
            options=PurifierOptions(
                feature_weight=feature_weight, through_steps=through_steps, compiled=compiled
            ),
        ),
        courses,
        World(world),
        runs,
        _fine_tuning(steps, minutes, learning_rate, num_workers),
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class _PixelTuning:
    """Where a pixel network starts from, where it goes, and how it is told of."""

    start: Path
    weights: Path
    noise_level: float
    version: str
    options: PurifierOptions


def _tune_pixels(
    tuning: _PixelTuning,
    courses: Sequence[Course],
    photos: PhotoSource,
    runs: Path,
    settings: LoopSettings,
    *,
    seed: int,
) -> None:
    network = train_purifier(
        PurificationPipeline.from_pretrained(tuning.start, dtype=torch.float32).unet,
        courses,
        photos,
        runs,
        settings,
        options=tuning.options,
        seed=seed,
    )
    publish_purifier(
        network,
        name="purifier",
        version=tuning.version,
        noise_level=tuning.noise_level,
        command=this_command(),
        weights=tuning.weights,
    )


def _pixel_base(named: str) -> Path:
    base = Path(named) if named else WEIGHTS_DIRECTORY / "base"
    if not base.exists():
        raise LabError(f"{base} does not exist; make it with: codefend-lab train base")
    return base


def _shares(through: float, clean: float, crop: float) -> dict[str, float]:
    return {"through_share": through, "clean_share": clean, "crop_share": crop}


def _fine_tuning(
    steps: int, minutes: float, learning_rate: float, num_workers: int
) -> LoopSettings:
    return LoopSettings(
        num_steps=steps,
        learning_rate=learning_rate,
        warmup_steps=max(1, min(200, steps // 10)),
        ema_decay=0.996,
        weight_decay=0.0,
        max_minutes=minutes,
        num_workers=num_workers,
    )
