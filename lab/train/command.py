"""``codefend-lab train``: the embedded MLLM, the base, the pairs, the purifier, each resumable."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lab.errors import LabError
from lab.folders.source import Data, SizePx, open_data
from lab.train.base import train_base
from lab.train.course_sources import (
    is_classifier,
    load_course,
    load_mllm,
    load_surrogate_classifier,
)
from lab.train.crops import PhotoSource
from lab.train.detector_command import detector
from lab.train.folder_pairs import make_folder_pairs
from lab.train.latent_command import Tuning, latent_base, tune_adapters
from lab.train.latent_purifier import LatentOptions
from lab.train.loop import LoopSettings
from lab.train.mllm import train_mllm
from lab.train.options import (
    DEFAULT_WORKERS,
    LATENT_WEIGHTS,
    RUNS,
    WORLD_FILE,
    Batch,
    CropSide,
    Minutes,
    PurifierKind,
    Runs,
    Seed,
    Steps,
    VictimSource,
    Weights,
    Workers,
    WorldFile,
)
from lab.train.pairs import make_pairs
from lab.train.photo_pairs import make_photo_pairs
from lab.train.publish import publish_mllm, publish_purifier, this_command
from lab.train.purifier import PurifierOptions, train_purifier
from lab.train.vision import SceneNumbers, train_vision
from lab.world.compose import World
from models.manifest import WEIGHTS_DIRECTORY
from models.mllm.architecture import ARCHITECTURES
from models.purifier.pipeline import PurificationPipeline

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train what ships; every command resumes.")
app.command("detector")(detector)
app.command("latent-base")(latent_base)


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
    what: dict[str, Any] = {
        "num_pairs": num_pairs,
        "steps": attack_steps,
        "batch_size": batch_size,
        "share": _share(share),
        "seed": seed,
    }
    if is_classifier(victim):
        make_photo_pairs(_photos(world, data), load_surrogate_classifier(victim), out, **what)
    elif data:
        make_folder_pairs(open_data(data, size_px), load_mllm(victim), out, **what)
    else:
        make_pairs(World(world), load_mllm(victim), out, **what)


@app.command("purifier")
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
    base_from: Annotated[
        str, typer.Option("--base", help="Pipeline to start from; of a latent one, or a hub id.")
    ] = "",
    steps: Steps = 3000,
    minutes: Minutes = math.inf,
    batch_size: Batch = 16,
    learning_rate: Annotated[
        float, typer.Option(help="Peak; 1e-3, or 1e-4 if latent, where 0.")
    ] = 0.0,
    feature_weight: Annotated[float, typer.Option(help="0 leaves the feature loss out.")] = 0.1,
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
    through_share: Annotated[
        float, typer.Option(help="Share of a batch attacked through the purifier itself.")
    ] = 0.0,
    through_steps: Annotated[int, typer.Option(help="Gradient steps of that attack.")] = 5,
    clean_share: Annotated[float, typer.Option(help="Share of a batch not attacked.")] = 0.25,
    crop_share: Annotated[
        float, typer.Option(help="Share that is clean crops of photos and text.")
    ] = 0.125,
    compiled: Annotated[bool, typer.Option(help="Compile the network first: minutes.")] = False,
    num_workers: Workers = DEFAULT_WORKERS,
    noise_level: Annotated[
        float, typer.Option(help="Default of the finished one; 0.05, or 0.1 if latent, where 0.")
    ] = 0.0,
    version: Annotated[str, typer.Option(help="Name of this training.")] = "1",
    seed: Seed = 0,
) -> None:
    """Fine-tune the base on pairs: a pixel network whole, a latent one by LoRA adapters."""
    is_latent = kind is PurifierKind.LATENT
    if is_latent and compiled:
        raise LabError("--compiled is for pixel networks")
    base_from = base_from or str(
        LATENT_WEIGHTS / "latent-base" if is_latent else WEIGHTS_DIRECTORY / "base"
    )
    if not is_latent and not Path(base_from).exists():
        raise LabError(f"{base_from} does not exist; make it with: codefend-lab train base")
    learning_rate = learning_rate or (1e-4 if is_latent else 1e-3)
    settings = _fine_tuning(steps, minutes, learning_rate, num_workers)
    sources = [f"{victim}={pairs_from},{batch_size}", *(beside or [])]
    shares = {
        "through_share": through_share,
        "clean_share": clean_share,
        "crop_share": crop_share,
    }
    courses = [load_course(source, batch_size, shares) for source in sources]
    if is_latent:
        tune_adapters(
            Tuning(
                base=base_from,
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
    network = train_purifier(
        PurificationPipeline.from_pretrained(base_from, dtype=torch.float32).unet,
        courses,
        _photos(world, data),
        runs,
        settings,
        options=PurifierOptions(
            feature_weight=feature_weight, through_steps=through_steps, compiled=compiled
        ),
        seed=seed,
    )
    publish_purifier(
        network,
        name="purifier",
        version=version,
        noise_level=noise_level or 0.05,
        command=this_command(),
        weights=weights or WEIGHTS_DIRECTORY,
    )


def _fine_tuning(
    steps: int, minutes: float, learning_rate: float, num_workers: int
) -> LoopSettings:
    return LoopSettings(
        num_steps=steps,
        learning_rate=learning_rate,
        ema_decay=0.996,
        weight_decay=0.0,
        max_minutes=minutes,
        num_workers=num_workers,
    )


def _photos(world: Path, data: str) -> PhotoSource:
    """Where crops come from that nobody attacked; their size is that of the pairs."""
    if not data:
        return World(world)
    images = open_data(data, size_px=1)
    images.first("train", 1)
    return images


def _share(text: str) -> tuple[int, int]:
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and int(part) < int(of)):
        raise LabError(f"--share must be i/n with i below n, not {text}")
    return int(part), int(of)
