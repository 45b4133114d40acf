"""``codefend-lab fidelity``: what purification does to images that nobody attacked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.attacks.pixels import decode_png
from codefend.lab.documents.document import SYSTEM_FONTS, Fonts
from codefend.lab.documents.kinds import TEXT_SIZES_PX, documents
from codefend.lab.errors import LabError
from codefend.lab.evaluate.observe import Observer
from codefend.lab.evaluate.perceptual import PerceptualDistance
from codefend.lab.evaluate.specimens import (
    Specimen,
    document_specimens,
    folder_specimens,
    photo_specimens,
    scene_specimens,
)
from codefend.lab.evaluate.unattacked import unattacked_rows
from codefend.lab.experiments.report import provenance
from codefend.lab.fidelity.report import write_fidelity
from codefend.lab.fidelity.roster import DEFAULT_DEFENCES, FidelityRoster
from codefend.lab.reading import Tesseract
from codefend.lab.victims.classifier import TRAINING_CLASSIFIER, feature_maps, load_classifier
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["register"]

TASKS = ("photo", "scene", "text")


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("fidelity")(fidelity)


def fidelity(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the report; a run resumes from it.")],
    tasks: Annotated[str, typer.Option(help="What is looked at, comma-separated.")] = ",".join(
        TASKS
    ),
    defences: Annotated[
        str, typer.Option(help="Comma-separated, with settings: purifier,diffpure=0.1x4,jpeg=50.")
    ] = DEFAULT_DEFENCES,
    purifier: Annotated[Path, typer.Option(help="Our purifier.")] = WEIGHTS_DIRECTORY / "purifier",
    base: Annotated[Path, typer.Option(help="DiffPure's network.")] = WEIGHTS_DIRECTORY / "base",
    world: Annotated[Path, typer.Option(help="World file, for its test photos.")] = Path(
        "work/world.npz"
    ),
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photos, instead of the world's.")
    ] = None,
    gallery: Annotated[Path, typer.Option(help="Gallery, for its clean scenes.")] = Path("gallery"),
    fonts: Annotated[Path, typer.Option(help="Folder of DejaVu and Liberation.")] = SYSTEM_FONTS,
    text_sizes: Annotated[str, typer.Option(help="Em sizes in pixels.")] = ",".join(
        map(str, TEXT_SIZES_PX)
    ),
    num_documents: Annotated[
        int, typer.Option("--num-documents", min=1, help="Of each kind and text size.")
    ] = 6,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the defence's noise.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the texts.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device; found where empty.")] = "",
) -> None:
    """Compare photos, scenes and text before and after each defence; read the text with Tesseract.

    Interrupted, it resumes: every observation is kept in the folder of the report.
    """
    wanted = _tasks(tasks)
    reader = Tesseract.find() if "text" in wanted else None
    faces = Fonts.find(fonts) if "text" in wanted else Fonts.built_in()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    roster = FidelityRoster(purifier, base, device)
    tested = roster.defences(defences)
    sources: dict[str, Callable[[], Sequence[Specimen]]] = {
        "photo": lambda: folder_specimens(photos) if photos else photo_specimens(World(world)),
        "scene": lambda: _scenes(gallery),
        "text": lambda: [
            *document_specimens(
                documents(faces, num=num_documents, text_sizes_px=_sizes(text_sizes), seed=seed)
            )
        ],
    }
    specimens = [specimen for task in wanted for specimen in sources[task]()]
    observer = Observer(out / "observations", reader, _distance())
    rows = unattacked_rows(specimens, tested, observer, seeds=seeds)
    meta = provenance(seed=seed, weights=roster.weights, device=device) | {
        "defences": {defence.name: defence.setting for defence in tested},
        "reader": reader.name if reader else None,
        "fonts": faces.names,
    }
    typer.echo(write_fidelity(out, meta, rows))


def _distance() -> PerceptualDistance:
    classifier = load_classifier(TRAINING_CLASSIFIER)
    name = f"{TRAINING_CLASSIFIER} {classifier.sha256[:12]}"
    return PerceptualDistance(name, partial(feature_maps, classifier))


def _tasks(text: str) -> list[str]:
    wanted = [task for task in TASKS if task in text.split(",")]
    if len(wanted) != len(text.split(",")):
        raise LabError(f"--tasks takes names from {', '.join(TASKS)}; got {text}")
    return wanted


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise LabError(f"--text-sizes takes whole pixels, such as 12,16: {error}") from error
    if not all(6 <= size <= 40 for size in sizes):
        raise LabError(f"--text-sizes must be from 6 to 40 pixels; got {text}")
    return sizes


def _scenes(gallery: Path) -> list[Specimen]:
    file = gallery / "scenes.json"
    if not file.exists():
        raise LabError(f"{file} does not exist; make it with: codefend-lab data gallery")
    entries = json.loads(file.read_text(encoding="utf-8"))
    return scene_specimens([decode_png((gallery / e["clean"]).read_bytes()) for e in entries])
