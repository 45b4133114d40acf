"""`codefend-lab detect`: how well attacks are noticed, and calibration on one's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from pydantic import Field

from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.detection.scoring import (
    SuspicionScorer,
    calibrate,
    detection_rows,
    detection_table,
    logged_suspicions,
    recalibrate,
    save_detector,
)
from codefend.lab.detection.uploads import benign_uploads, evading_uploads
from codefend.lab.errors import LabError
from codefend.lab.evaluate.context import VictimExperiment
from codefend.lab.evaluate.data import TrueScene, world_scenes
from codefend.lab.evaluate.suite import suite_uploads, variants_named
from codefend.lab.evaluate.uploads import Attacker, Uploads, oblivious_uploads
from codefend.lab.experiments.report import write_report
from codefend.lab.experiments.settings import RunSettings, add_command
from codefend.lab.experiments.store import Store
from codefend.lab.fidelity.samples import folder_samples, photo_samples
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["Detect", "app"]


class Calibrate(RunSettings):
    """Make suspicion mean what it says on your own images: 1 % of them will be flagged."""

    photos: Path | None = None
    """Folder of your own clean images, 100 or more."""
    log: Path | None = None
    """Log of the service instead: the suspicions of traffic that is known to be clean."""
    most_px: int = Field(1024, ge=64)
    """CODEFEND_TILE_ABOVE_PX of that service: an image in tiles has a mean of suspicions."""
    out: Path
    """Where the calibrated detector goes."""
    detector: Path = WEIGHTS_DIRECTORY / "detector"
    """The detector."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """The purifier that it stands behind."""
    seed: int = 0
    """Of the purifier's noise."""


class Detect(VictimExperiment):
    """Score clean, benignly altered and attacked images; AUROC, rate caught, rate flagged."""

    name = "detect"
    has_own_command = True  # detect evaluate

    attacked: Path | None = None
    """Folder of attacked images of `evaluate`; else in the report's."""
    detector: Path = WEIGHTS_DIRECTORY / "detector"
    """The detector."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """The purifier that it stands behind."""
    surrogate_models: tuple[str, ...] = (str(WEIGHTS_DIRECTORY / "surrogate"),)
    """MLLMs of the ensemble's attacker."""
    families: tuple[str, ...] = ("all",)
    """Of the suite: all, none, or names."""
    num_scenes: int = Field(512, ge=1)
    """Scenes at the main radius."""
    family_scenes: int = Field(32, ge=1)
    """Scenes of the suite."""
    evading_scenes: int = Field(32, ge=1)
    """Scenes of who evades."""
    evading_steps: int = Field(100, ge=1)
    """Steps of who evades."""
    num_documents: int = Field(20, ge=1)
    """Of each kind and text size."""

    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report."""
        scorer, sha256s = _scorer(self.detector, self.purifier, self.device)
        if not scorer.detector.config.clean_quantiles:
            raise LabError(
                f"{self.detector} is not calibrated; do it with: codefend-lab detect calibrate"
            )
        pool = World(self.world)
        scenes = world_scenes(pool, self.split, self.num_scenes, seed=self.oblivious.seed)
        attacker = self._attacker()
        uploads = self._uploads(scorer, pool, attacker, scenes)
        name = attacker.victim.name
        rows = detection_rows(uploads, scorer, victim=name, seeds=self.oblivious.seeds)
        meta = self.meta({name: attacker.victim.sha256, **sha256s})
        typer.echo(write_report(self.out, meta, rows, [detection_table(rows), _NOTES]))

    def _attacker(self) -> Attacker:
        sources = [self.victim, *filter(None, self.surrogate_models)]
        victim, *others = [self.load(source)[1] for source in sources]
        return Attacker(victim, Store(self.attacked or self.out / "attacked"), others)

    def _uploads(
        self,
        scorer: SuspicionScorer,
        pool: World,
        attacker: Attacker,
        scenes: Sequence[TrueScene],
    ) -> list[Uploads]:
        settings, variants = self.oblivious, variants_named(self.families)
        evading = settings.replace(steps=self.evading_steps)
        clean = [scene.image for scene in scenes[: settings.num_scenes_other]]
        photos = [sample.image for sample in photo_samples(pool)]
        own = scenes[: self.family_scenes]
        return [
            *benign_uploads(clean, photos, num_documents=self.num_documents, seed=settings.seed),
            *oblivious_uploads(attacker, settings, scenes),
            *(uploads for _, uploads in suite_uploads(attacker, settings, variants, own)),
            *evading_uploads(evading, attacker, scorer, scenes[: self.evading_scenes]),
        ]


def _calibrate(settings: Calibrate) -> None:
    scorer, _ = _scorer(settings.detector, settings.purifier)
    if settings.photos is not None and settings.log is None:
        num_images = _calibrate_on_photos(scorer, settings.photos, settings.seed)
    elif settings.log is not None and settings.photos is None:
        suspicions = logged_suspicions(settings.log, settings.most_px)
        num_images = len(suspicions)
        try:
            recalibrate(scorer.detector, suspicions)
        except ValueError as error:
            raise LabError(f"{settings.log}: {error}") from error
    else:
        raise LabError("give either --photos, a folder of clean images, or --log, a service's log")
    save_detector(scorer.detector, settings.out)
    typer.echo(f"calibrated on {num_images} images; serve it with CODEFEND_DETECTOR={settings.out}")


def _calibrate_on_photos(scorer: SuspicionScorer, photos: Path, seed: int) -> int:
    samples = folder_samples(photos)
    if len(samples) < 100:
        raise LabError(f"{photos} holds {len(samples)} images; a calibration takes 100 or more")
    calibrate(scorer, [sample.image for sample in samples], seed=seed)
    return len(samples)


def _scorer(
    detector: Path, purifier: Path, device: str = "cpu"
) -> tuple[SuspicionScorer, dict[str, str]]:
    """The detector behind its purifier, and the hashes of both."""
    pipeline, sha256 = load_purifier(purifier, device=device)
    behind = purifying("purifier", pipeline, sha256)
    scorer = SuspicionScorer.load(detector, behind, device=device)
    return scorer, {"detector": scorer.sha256, "purifier": sha256}


app = typer.Typer(no_args_is_help=True, help="Notice attacks, and say how often.")
add_command(app, "calibrate", Calibrate, _calibrate)
add_command(app, "evaluate", Detect, lambda settings: settings.run())

_NOTES = (
    "flagged: the share above the threshold that ships, which flags 1 % of the clean images that "
    "calibration saw. caught: the share above the threshold that flags 1 % of the clean test "
    "images of the same row. The detector learned from attacks of the families marked as not held "
    "out. evading attacks maximise the answers' margin less the detector's score, with exact "
    "gradients through purifier and detector: of the undefended model, and of the one behind the "
    "purifier. Brackets are 95 % intervals: Wilson's for flagged, a bootstrap over scenes else."
)
