"""``codefend-lab train``: the embedded MLLM, the base, the pairs, the purifier, each resumable."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.errors import LabError
from codefend.lab.folders.source import Data, SizePx
from codefend.lab.train.ablations_command import ablations
from codefend.lab.train.base import train_base
from codefend.lab.train.detector_command import detector
from codefend.lab.train.latent_command import latent_base
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.mllm import train_mllm
from codefend.lab.train.options import (
    DEFAULT_WORKERS,
    RUNS,
    WORLD_FILE,
    Batch,
    CropSide,
    Minutes,
    Runs,
    Seed,
    Steps,
    VictimSource,
    Weights,
    Workers,
    WorldFile,
)
from codefend.lab.train.pair_sources import make_pairs_of
from codefend.lab.train.photographs_command import photographs
from codefend.lab.train.publish import publish_mllm, publish_purifier, this_command
from codefend.lab.train.purifier_command import purifier, recipe
from codefend.lab.train.vision import SceneNumbers, train_vision
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.mllm.architecture import ARCHITECTURES

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train what ships; every command resumes.")
app.command("ablations")(ablations)
app.command("detector")(detector)
app.command("latent-base")(latent_base)
app.command("photographs")(photographs)
app.command("purifier")(purifier)
app.command("recipe")(recipe)


@app.command("mllm")
def mllm(
    world: WorldFile = WORLD_FILE,
    runs: Runs = RUNS,
    weights: Weights = WEIGHTS_DIRECTORY,
    vision_steps: Steps = 1350,
    steps: Steps = 1000,
    vision_minutes: Minutes = math.inf,
    minutes: Minutes = math.inf,
    batch_size: Batch = 64,
    num_workers: Workers = DEFAULT_WORKERS,
    seed: Seed = 0,
    architecture: Annotated[
        str, typer.Option(help=f"One of {', '.join(ARCHITECTURES)}.")
    ] = "levit",
    num_scenes: Annotated[
        int | None,
        typer.Option(help="Train on so many scenes over and over, not on ever new ones."),
    ] = None,
    name: Annotated[str, typer.Option(help="Folder of the finished weights.")] = "mllm",
    start_from: Annotated[
        Path | None, typer.Option(help="Train on this saved model; give another --seed then.")
    ] = None,
) -> None:
    """Train an embedded MLLM: first its tower on dense patch labels, then the whole."""
    if architecture not in ARCHITECTURES:
        raise LabError(f"unknown architecture {architecture}; known: {', '.join(ARCHITECTURES)}")
    folder = runs / name
    scenes = World(world)
    tower_settings = LoopSettings(
        num_steps=vision_steps,
        learning_rate=2e-3,
        ema_decay=0.998,
        max_minutes=vision_minutes,
        num_workers=num_workers,
    )
    start = start_from or train_vision(
        scenes,
        ARCHITECTURES[architecture],
        folder,
        tower_settings,
        numbers=SceneNumbers(batch_size, num_scenes),
        seed=seed,
    )
    settings = LoopSettings(
        num_steps=steps,
        learning_rate=1.5e-3,
        ema_decay=0.998,
        max_minutes=minutes,
        num_workers=num_workers,
    )
    model, processor = train_mllm(
        scenes,
        start,
        folder,
        settings,
        numbers=SceneNumbers(batch_size * 3 // 4, num_scenes),
        seed=seed,
    )
    publish_mllm(model, processor, name=name, command=this_command(), weights=weights)


@app.command("base")
def base(
    world: WorldFile = WORLD_FILE,
    runs: Runs = RUNS,
    weights: Weights = WEIGHTS_DIRECTORY,
    steps: Steps = 3000,
    minutes: Minutes = math.inf,
    batch_size: Batch = 32,
    num_workers: Workers = DEFAULT_WORKERS,
    crop_px: CropSide = 64,
    seed: Seed = 0,
) -> None:
    """Train the base diffusion model on clean photos and scenes."""
    settings = LoopSettings(
        num_steps=steps,
        learning_rate=1e-3,
        ema_decay=0.995,
        weight_decay=0.0,
        max_minutes=minutes,
        num_workers=num_workers,
    )
    network = train_base(
        World(world), runs, settings, batch_size=batch_size, size_px=crop_px, seed=seed
    )
    publish_purifier(
        network, name="base", version="1", noise_level=0.1, command=this_command(), weights=weights
    )


@app.command("pairs")
def pairs(
    world: WorldFile = WORLD_FILE,
    data: Data = "",
    size_px: SizePx = 224,
    out: Annotated[Path, typer.Option(help="Folder of the pairs.")] = RUNS / "pairs",
    victim: VictimSource = str(WEIGHTS_DIRECTORY / "mllm"),
    num_pairs: Annotated[int, typer.Option("--num", help="Pairs to make.")] = 4096,
    attack_steps: Annotated[int, typer.Option(help="PGD steps.")] = 10,
    batch_size: Batch = 32,
    share: Annotated[
        str, typer.Option(help="Make only batches i of every n, as i/n: several commands at once.")
    ] = "0/1",
    seed: Seed = 0,
) -> None:
    """Attack training images on the victim and keep attacked and clean side by side.

    Scenes, or a folder's pictures, for an MLLM; crops of photos for efficientnet-lite0.
    """
    make_pairs_of(
        victim,
        out,
        world=world,
        data=data,
        size_px=size_px,
        num_pairs=num_pairs,
        steps=attack_steps,
        batch_size=batch_size,
        share=_share(share),
        seed=seed,
    )


def _share(text: str) -> tuple[int, int]:
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and int(part) < int(of)):
        raise LabError(f"--share must be i/n with i below n, not {text}")
    return int(part), int(of)
