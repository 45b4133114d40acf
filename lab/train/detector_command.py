"""``codefend-lab train detector``: examples, training, calibration, weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.detection.calibration import calibrate
from codefend.lab.detection.scoring import Scorer
from codefend.lab.experiments.store import digest_of
from codefend.lab.train.detector import calibration_images, make_examples, train_detector
from codefend.lab.train.loop import LoopSettings
from codefend.lab.train.options import (
    DEFAULT_WORKERS,
    RUNS,
    WORLD_FILE,
    Batch,
    Minutes,
    Runs,
    Seed,
    Steps,
    Weights,
    Workers,
    WorldFile,
)
from codefend.lab.train.publish import publish_detector, this_command
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["detector"]


def detector(
    world: WorldFile = WORLD_FILE,
    runs: Runs = RUNS,
    weights: Weights = WEIGHTS_DIRECTORY,
    pairs_from: Annotated[
        list[Path] | None, typer.Option("--pairs", help="Folder of pairs; may be repeated.")
    ] = None,
    purifier_from: Annotated[
        Path, typer.Option("--purifier", help="The purifier that it will stand behind.")
    ] = WEIGHTS_DIRECTORY / "purifier",
    num_crops: Annotated[int, typer.Option(help="Crops of photos and text beside them.")] = 1024,
    num_calibration: Annotated[
        int, typer.Option(min=600, help="Clean images of the calibration.")
    ] = 1200,
    steps: Steps = 2000,
    minutes: Minutes = math.inf,
    batch_size: Batch = 64,
    num_workers: Workers = DEFAULT_WORKERS,
    seed: Seed = 0,
) -> None:
    """Train the detector that stands behind a purifier, and calibrate it on clean images."""
    pipeline, sha256 = load_purifier(
        purifier_from, device="cuda" if torch.cuda.is_available() else "cpu"
    )
    defence = purifying("purifier", pipeline, sha256)
    scenes = World(world)
    examples = make_examples(
        pairs_from or [RUNS / "pairs"],
        scenes,
        defence,
        runs / f"detector-examples-{digest_of(defence.setting)}",
        num_crops=num_crops,
        seed=seed,
    )
    settings = LoopSettings(
        num_steps=steps,
        learning_rate=1e-3,
        ema_decay=0.99,
        max_minutes=minutes,
        num_workers=num_workers,
    )
    network = train_detector(examples, runs, settings, batch_size=batch_size, seed=seed)
    scorer = Scorer(network, defence)
    calibrate(scorer, *calibration_images(scenes, num_calibration, seed=seed), seed=seed)
    publish_detector(network, command=this_command(), weights=weights)
