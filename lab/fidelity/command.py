"""`codefend-lab fidelity`: what purification does to images that nobody attacked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import Field

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.filters import blur, median
from codefend.lab.baselines.named import defence_named
from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.documents.document import SYSTEM_FONTS, Fonts
from codefend.lab.documents.kinds import TEXT_SIZES_PX, documents
from codefend.lab.errors import LabError
from codefend.lab.evaluate.context import found_device
from codefend.lab.experiments.report import provenance
from codefend.lab.experiments.settings import Experiment
from codefend.lab.experiments.store import Store
from codefend.lab.fidelity.probe import FidelityProbe, PerceptualDistance
from codefend.lab.fidelity.report import unattacked_rows, write_fidelity
from codefend.lab.fidelity.samples import (
    Sample,
    document_samples,
    folder_samples,
    photo_samples,
    scene_samples,
)
from codefend.lab.reading import Tesseract
from codefend.lab.victims.classifier import TRAINING_CLASSIFIER, feature_maps, load_classifier
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.strengths import STRENGTHS

__all__ = ["DEFAULT_DEFENCES", "Fidelity", "defences_of"]

Task = Literal["photo", "scene", "text"]
TASKS: tuple[Task, ...] = ("photo", "scene", "text")
DEFAULT_DEFENCES = ("purifier", "diffpure=0.15x4", "jpeg=50", "bit_depth=2", "blur=1.5", "median=7")
"""The filters at the settings that withstood most on attacked validation scenes
(docs/robustness/report.md)."""

_FILTERS: Mapping[str, Callable[[str], Defence]] = {
    "jpeg": lambda text: jpeg(int(text)),
    "bit_depth": lambda text: bit_depth(int(text)),
    "blur": lambda text: blur(float(text)),
    "median": lambda text: median(int(text)),
}


class Fidelity(Experiment):
    """Compare photos, scenes and text before and after each defence; read the text with Tesseract.

    Interrupted, it resumes: every observation is kept in the folder of the report.
    """

    name = "fidelity"

    tasks: tuple[Task, ...] = TASKS
    """What is looked at."""
    defences: tuple[str, ...] = DEFAULT_DEFENCES
    """Names, with settings: purifier,diffpure=0.1x4,jpeg=50; light and strong are the purifier at
    another strength."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """Our purifier."""
    base: Path = WEIGHTS_DIRECTORY / "base"
    """DiffPure's network."""
    world: Path = Path("work/world.npz")
    """World file, for its test photos."""
    photos: Path | None = None
    """Folder of photos, instead of the world's."""
    gallery: Path = Path("gallery")
    """Gallery, for its clean scenes."""
    fonts: Path = SYSTEM_FONTS
    """Folder of DejaVu and Liberation."""
    text_sizes: tuple[Annotated[int, Field(ge=6, le=40)], ...] = tuple(TEXT_SIZES_PX)
    """Em sizes in pixels."""
    num_documents: int = Field(6, ge=1)
    """Of each kind and text size."""
    seeds: int = Field(3, ge=1)
    """Seeds of the defence's noise."""
    seed: int = 0
    """Of the texts."""
    device: str = Field(default_factory=found_device)
    """Torch device."""

    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report."""
        reads = "text" in self.tasks
        reader = Tesseract.find() if reads else None
        faces = Fonts.find(self.fonts) if reads else Fonts.built_in()
        tested, weights = defences_of(self.defences, self.purifier, self.base, self.device)
        wanted = [task for task in TASKS if task in self.tasks]
        samples = [sample for task in wanted for sample in self._samples(task, faces)]
        probe = FidelityProbe(Store(self.out / "observations"), reader, _distance())
        rows = unattacked_rows(samples, tested, probe, seeds=self.seeds)
        meta = provenance(seed=self.seed, weights=weights, device=self.device, settings=self) | {
            "defences": {defence.name: defence.setting for defence in tested},
            "reader": reader.name if reader else None,
            "fonts": faces.names,
        }
        typer.echo(write_fidelity(self.out, meta, rows))

    def _samples(self, task: Task, faces: Fonts) -> Sequence[Sample]:
        if task == "photo":
            return folder_samples(self.photos) if self.photos else photo_samples(World(self.world))
        if task == "scene":
            return _scenes(self.gallery)
        sizes = list(self.text_sizes)
        drawn = documents(faces, num=self.num_documents, text_sizes_px=sizes, seed=self.seed)
        return list(document_samples(drawn))


def defences_of(
    texts: Sequence[str], purifier: Path, base: Path, device: str = "cpu"
) -> tuple[list[Defence], dict[str, str]]:
    """Such as `purifier`, `diffpure=0.1x4`, `jpeg=50`; a purifier alone runs as it is saved.

    Args:
        texts: names, each with `=setting`: quality, bits, standard deviation or window in pixels;
            of a purifier the noise level, and the steps after an x; of a strength, whose name
            stands for our purifier at it, none.
        purifier: directory of our purifier.
        base: directory of DiffPure's network.
        device: torch device of both.

    Returns:
        The defences, and name to sha256 of the weights that they loaded.

    Raises:
        LabError: Unknown name, bad or missing setting, missing weights, or a name twice.
    """
    directories = {"purifier": purifier, "diffpure": base}
    weights: dict[str, str] = {}

    def made(name: str, setting: str) -> Defence:
        if name in STRENGTHS and not setting:
            networks = {"purifier": load_purifier(purifier, device=device)}
            weights["purifier"] = networks["purifier"][1]
            return replace(defence_named(f"purifier:{name}", networks), name=name)
        if name not in directories:
            return _FILTERS[name](setting)
        level, _, steps = setting.partition("x")
        noise_level = float(level) if level else None
        num_steps = int(steps) if steps else None
        pipeline, sha256 = load_purifier(directories[name], device=device)
        weights[name if name == "purifier" else "base"] = sha256
        return purifying(name, pipeline, sha256, noise_level=noise_level, num_steps=num_steps)

    found: dict[str, Defence] = {}
    for text in texts:
        name, _, setting = text.strip().partition("=")
        try:
            defence = made(name, setting)
        except KeyError as error:
            known = ", ".join([*directories, *STRENGTHS, *_FILTERS])
            raise LabError(f"unknown defence {name!r}; there are {known}") from error
        except ValueError as error:
            raise LabError(f"bad setting of {name}: {error}") from error
        if defence.name in found:
            raise LabError(f"--defences names one twice: {','.join(texts)}")
        found[defence.name] = defence
    return list(found.values()), weights


def _distance() -> PerceptualDistance:
    classifier = load_classifier(TRAINING_CLASSIFIER)
    name = f"{TRAINING_CLASSIFIER} {classifier.sha256[:12]}"
    return PerceptualDistance(name, partial(feature_maps, classifier))


def _scenes(gallery: Path) -> list[Sample]:
    file = gallery / "scenes.json"
    if not file.exists():
        raise LabError(f"{file} does not exist; make it with: codefend-lab data gallery")
    entries = json.loads(file.read_text(encoding="utf-8"))
    return scene_samples([decode_png((gallery / e["clean"]).read_bytes()) for e in entries])
