"""``codefend-lab train photographs``: a purifier of photographs, scenes and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.encoders.encoder import TRAINING_ENCODERS, load_encoder
from codefend.lab.encoders.releases import ENCODERS_FOLDER
from codefend.lab.errors import LabError
from codefend.lab.train.course_sources import load_course
from codefend.lab.train.courses import TrainingSource
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.online import OnlineOptions, OnlineSource
from codefend.lab.train.options import (
    WORLD_FILE,
    Compiled,
    FeatureWeight,
    NoiseLevel,
    Seed,
    Version,
    WorldFile,
)
from codefend.lab.train.photographs import Photographs
from codefend.lab.train.pictures import PictureMix
from codefend.lab.train.publish import publish_purifier, this_command
from codefend.lab.train.purifier import PurifierOptions, train_purifier
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.pipeline import PurificationPipeline

__all__ = ["photographs"]

PACKAGES = Path("work/packages/photos")
SCENE_ENCODERS = (str(WEIGHTS_DIRECTORY / "mllm"),)


def photographs(
    *,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder of the checkpoint: one file, resumed from.")
    ] = Path("work/photographs"),
    weights: Annotated[Path, typer.Option(help="Where finished weights go.")] = Path(
        "work/weights"
    ),
    world: WorldFile = WORLD_FILE,
    packages: Annotated[
        Path, typer.Option(help="Folder that the world's photographs were read from.")
    ] = PACKAGES,
    photos: Annotated[
        list[Path] | None, typer.Option(help="Folder of more photographs; may be repeated.")
    ] = None,
    start_from: Annotated[
        Path, typer.Option(help="Purifier that training starts from.")
    ] = WEIGHTS_DIRECTORY / "purifier",
    encoders: Annotated[
        str, typer.Option(help="Attacked and learned from, in turns; also directories of MLLMs.")
    ] = ",".join((*TRAINING_ENCODERS, *SCENE_ENCODERS)),
    encoders_from: Annotated[
        Path, typer.Option(help="Folder of `data encoders`.")
    ] = ENCODERS_FOLDER,
    beside: Annotated[
        list[str] | None, typer.Option(help="Stored pairs too: VICTIM=FOLDER,BATCH; repeatable.")
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Optimiser steps; the rate falls towards the last.")
    ] = (200_000),
    stop_after: Annotated[
        int, typer.Option(help="Stop at this step, with the rate of a longer run; 0: at the end.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 16,
    size_px: Annotated[int, typer.Option(help="Side of a picture; a multiple of 32.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = 3e-4,
    ema_decay: Annotated[float, typer.Option(help="Of the weights that are kept.")] = 0.999,
    feature_weight: FeatureWeight = 0.1,
    leaves_share: Annotated[float, typer.Option(help="Share that is dead leaves.")] = 0.125,
    clean_share: Annotated[float, typer.Option(help="Share that is not attacked.")] = 0.25,
    adversarial_share: Annotated[
        float, typer.Option(help="Share attacked through the purifier as it is.")
    ] = 0.25,
    replayed: Annotated[
        bool, typer.Option(help="Purify that share with the attack's own level and noise.")
    ] = True,
    jpeg_share: Annotated[
        float, typer.Option(help="Share of steps whose features are taken behind a JPEG codec.")
    ] = 0.5,
    compiled: Compiled = False,
    num_workers: Annotated[int, typer.Option(help="Processes that make batches.")] = 1,
    checkpoint_steps: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    noise_level: NoiseLevel = 0.05,
    version: Version = "1",
    seed: Seed = 0,
) -> None:
    """Fine-tune a purifier on pictures of every kind that are attacked as it learns.

    Killed at any moment, moved to another folder or machine, it goes on from its checkpoint and
    ends with the same weights. At the size of one GPU:
    ``codefend-lab train photographs --batch-size 128 --compiled --num-workers 12``.
    """
    if size_px % 32:
        raise LabError(f"--size-px must be a multiple of 32, not {size_px}")
    scenes = World(world)
    only = set(scenes.photo_paths["train"])
    found = Photographs.find([packages], only=only).paths
    if photos:
        found += Photographs.find(photos).paths
    mix = PictureMix(
        world=scenes,
        photographs=Photographs(found),
        size_px=size_px,
        batch_size=batch_size,
        leaves_share=leaves_share,
        seed=seed,
    )
    options = PurifierOptions(
        feature_weight=feature_weight,
        compiled=compiled,
        online=OnlineOptions(
            clean_share=clean_share,
            adversarial_share=adversarial_share,
            feature_weight=feature_weight,
            replayed=replayed,
            jpeg_share=jpeg_share,
        ),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    frozen = [
        load_encoder(name, device=device, folder=encoders_from) for name in encoders.split(",")
    ]
    stored = [load_course(text, batch_size, {}) for text in beside or ()]
    sources: Sequence[TrainingSource] = [OnlineSource(mix, frozen), *stored]
    network = train_purifier(
        PurificationPipeline.from_pretrained(start_from, dtype=torch.float32).unet,
        sources,
        scenes,
        runs,
        LoopSettings(
            num_steps=steps,
            learning_rate=learning_rate,
            warmup_steps=max(1, min(50, steps // 10)),
            weight_decay=0.0,
            ema_decay=ema_decay,
            num_workers=num_workers,
            checkpoint_steps=checkpoint_steps,
            stop_after=stop_after or None,
        ),
        options=options,
        seed=seed,
    )
    publish_purifier(
        network,
        name="purifier",
        version=version,
        noise_level=noise_level,
        command=this_command(),
        weights=weights,
    )
