"""``codefend-lab detect``: how well attacks are noticed, and calibration on one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.detection.calibration import calibrate as set_quantiles
from codefend.lab.detection.calibration import save_detector
from codefend.lab.detection.evaluation import detection_rows
from codefend.lab.detection.report import detection_table
from codefend.lab.detection.samples import (
    benign_samples,
    evading_samples,
    oblivious_samples,
    suite_samples,
)
from codefend.lab.detection.scoring import Scorer, load_detector
from codefend.lab.errors import LabError
from codefend.lab.evaluate.run import Plan
from codefend.lab.evaluate.specimens import folder_specimens, photo_specimens
from codefend.lab.evaluate.tiers.suite import Suite, variants_named
from codefend.lab.evaluate.worlds import world_scenes
from codefend.lab.experiments.report import provenance, write_report
from codefend.lab.victims.victim import load_victim
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Notice attacks, and say how often.")

Detector = Annotated[Path, typer.Option(help="The detector.")]
Purifier = Annotated[Path, typer.Option(help="The purifier that it stands behind.")]
DETECTOR = WEIGHTS_DIRECTORY / "detector"
PURIFIER = WEIGHTS_DIRECTORY / "purifier"


@app.command("calibrate")
def calibrate(
    *,
    photos: Annotated[Path, typer.Option(help="Folder of your own clean images, 100 or more.")],
    out: Annotated[Path, typer.Option(help="Where the calibrated detector goes.")],
    detector: Detector = DETECTOR,
    purifier: Purifier = PURIFIER,
    seed: Annotated[int, typer.Option(help="Of the purifier's noise.")] = 0,
) -> None:
    """Make suspicion mean what it says on your own images: 1 % of them will be flagged."""
    scorer, _ = _scorer(detector, purifier)
    specimens = folder_specimens(photos)
    if len(specimens) < 100:
        raise LabError(f"{photos} holds {len(specimens)} images; a calibration takes 100 or more")
    set_quantiles(scorer, [specimen.image for specimen in specimens], seed=seed)
    save_detector(scorer.detector, out)
    typer.echo(f"calibrated on {len(specimens)} images; serve it with CODEFEND_DETECTOR={out}")


@app.command("evaluate")
def evaluate(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the report; a run resumes from it.")],
    attacked: Annotated[
        Path | None, typer.Option(help="Folder of attacked images of `evaluate`; else in --out.")
    ] = None,
    detector: Detector = DETECTOR,
    purifier: Purifier = PURIFIER,
    world: Annotated[Path, typer.Option(help="World file.")] = Path("work/world.npz"),
    victim: Annotated[str, typer.Option(help="Model directory or hub id.")] = str(
        WEIGHTS_DIRECTORY / "mllm"
    ),
    surrogate_models: Annotated[
        str, typer.Option(help="MLLMs of the ensemble's attacker, comma-separated.")
    ] = str(WEIGHTS_DIRECTORY / "surrogate"),
    families: Annotated[str, typer.Option(help="Of the suite: all, none, or names.")] = "all",
    num_scenes: Annotated[int, typer.Option(help="Scenes at the main radius.")] = 512,
    num_scenes_other: Annotated[int, typer.Option(help="Scenes at others, and altered.")] = 128,
    family_scenes: Annotated[int, typer.Option(help="Scenes of the suite.")] = 32,
    evading_scenes: Annotated[int, typer.Option(help="Scenes of who evades.")] = 32,
    steps: Annotated[int, typer.Option(help="Attack steps.")] = 100,
    evading_steps: Annotated[int, typer.Option(help="Steps of who evades.")] = 100,
    num_documents: Annotated[int, typer.Option(help="Of each kind and text size.")] = 20,
    seeds: Annotated[int, typer.Option(help="Seeds of the purifier's noise.")] = 3,
    seed: Annotated[int, typer.Option(help="Of scenes, targets and random starts.")] = 0,
    attack_dtype: Annotated[str, typer.Option(help="Precision of the gradients.")] = "float32",
    device: Annotated[str, typer.Option(help="Torch device; found where empty.")] = "",
) -> None:
    """Score clean, benignly altered and attacked images; AUROC, rate caught, rate flagged."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    scorer, sha256s = _scorer(detector, purifier, device)
    if not scorer.detector.config.clean_quantiles:
        raise LabError(f"{detector} is not calibrated; do it with: codefend-lab detect calibrate")
    pool = World(world)
    attacker = load_victim(victim, device=device).astype(getattr(torch, attack_dtype))
    scenes = world_scenes(pool, "test", num_scenes, seed=seed)
    plan = Plan(
        steps=steps,
        num_scenes_targeted=min(num_scenes, 256),
        num_scenes_other=num_scenes_other,
        seeds=seeds,
        seed=seed,
    )
    folder = attacked or out / "attacked"
    models = [load_victim(name, device=device) for name in surrogate_models.split(",") if name]
    suite = Suite(attacker, [model.astype(attacker.dtype) for model in models], folder)
    photos = [specimen.image for specimen in photo_specimens(pool)]
    samples = [
        *benign_samples(
            [scene.image for scene in scenes[:num_scenes_other]],
            photos,
            num_documents=num_documents,
            seed=seed,
        ),
        *oblivious_samples(plan, attacker, scenes, folder),
        *suite_samples(plan, variants_named(families), suite, scenes[:family_scenes]),
        *evading_samples(
            plan, attacker, scorer, scenes[:evading_scenes], folder, steps=evading_steps
        ),
    ]
    rows = detection_rows(samples, scorer, victim=attacker.name, seeds=seeds)
    weights = {attacker.name: attacker.sha256, **sha256s}
    meta = provenance(seed=seed, weights=weights, device=device)
    typer.echo(write_report(out, meta, rows, [detection_table(rows), _NOTES]))


def _scorer(detector: Path, purifier: Path, device: str = "cpu") -> tuple[Scorer, dict[str, str]]:
    """The detector behind its purifier, and the hashes of both."""
    network, detector_sha256 = load_detector(detector, device=device)
    pipeline, sha256 = load_purifier(purifier, device=device)
    scorer = Scorer(network, purifying("purifier", pipeline, sha256))
    return scorer, {"detector": detector_sha256, "purifier": sha256}


_NOTES = (
    "flagged: the share above the threshold that ships, which flags 1 % of the clean images that "
    "calibration saw. caught: the share above the threshold that flags 1 % of the clean test "
    "images of the same row. The detector learned from attacks of the families marked as not held "
    "out. evading attacks maximise the answers' margin less the detector's score, with exact "
    "gradients through purifier and detector: of the undefended model, and of the one behind the "
    "purifier. Brackets are 95 % intervals: Wilson's for flagged, a bootstrap over scenes else."
)
