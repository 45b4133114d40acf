"""``codefend-lab classify``: what a purifier restores of a pretrained classifier's sight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.baselines.named import defence_named
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.classification.collages import build_collages
from codefend.lab.classification.curves import draw_curves
from codefend.lab.classification.evaluation import ClassificationPlan, evaluate_classifier
from codefend.lab.classification.report import classification_notes, classification_tables
from codefend.lab.classification.white_box import WhiteBoxPlan, white_box_rows
from codefend.lab.classification.windows import confident_windows
from codefend.lab.encoders.encoder import CLASSIFIERS, load_any_classifier
from codefend.lab.encoders.releases import ENCODERS_FOLDER
from codefend.lab.errors import LabError
from codefend.lab.evaluate.specimens import folder_specimens, photo_specimens
from codefend.lab.experiments.report import Row, provenance, write_report
from codefend.lab.plots.style import save_small
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["collages", "register"]

_DEFENCES = (
    "none,purifier:0.05,purifier:0.08,base:0.05,base:0.1,jpeg:75,jpeg:50,jpeg:30,jpeg:20,"
    "noise:0.05+bilateral:0.2,purifier:0.05+jpeg:40,base:0.05+jpeg:40"
)


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("classify")(classify)


def collages(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("work/collages"),
    packages: Annotated[Path, typer.Option(help="Folder of the packages.")] = Path("work/packages"),
    views: Annotated[int, typer.Option(min=1, help="Pictures of each thing.")] = 8,
    seed: Annotated[int, typer.Option(help="Of windows, places and sizes.")] = 0,
) -> None:
    """Lay photographed things on photographed places, for `classify --photos`."""
    num = build_collages(packages, out, num_views=views, seed=seed)
    typer.echo(f"wrote {num} pictures to {out}")


def classify(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the report; a run resumes from it.")],
    victims: Annotated[
        str, typer.Option(help=f"Classifiers, comma-separated: of {', '.join(CLASSIFIERS)}.")
    ] = ",".join(CLASSIFIERS[:2]),
    world: Annotated[Path, typer.Option(help="World file, for its test photos.")] = Path(
        "work/world.npz"
    ),
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photos or collages, instead of the world's.")
    ] = None,
    encoders: Annotated[Path, typer.Option(help="Folder of `data encoders`.")] = ENCODERS_FOLDER,
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="A purifier as NAME=DIRECTORY; may be repeated. purifier and base are there."
        ),
    ] = None,
    defences: Annotated[
        str, typer.Option(help="Comma-separated: none, NETWORK:LEVEL, jpeg:30, noise:0.05+jpeg:40.")
    ] = _DEFENCES,
    per_photo: Annotated[int, typer.Option(min=1, help="Windows looked at in each photo.")] = 32,
    most: Annotated[int, typer.Option(min=1, help="Windows kept at most, things in turns.")] = 320,
    steps: Annotated[int, typer.Option(min=1, help="Attack steps.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the defence's noise.")] = 3,
    through: Annotated[
        str, typer.Option(help="Defences also attacked through themselves (T2), comma-separated.")
    ] = "",
    white_box: Annotated[
        str, typer.Option(help="Of T2: windows, draws of noise and steps, as 8,8,50.")
    ] = "8,8,50",
    seed: Annotated[int, typer.Option(help="Of windows and random starts.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device; found where empty.")] = "",
) -> None:
    """Attack pretrained classifiers on windows of photos, and count the predictions that survive.

    T0: the attacker has the classifier's gradients and does not know of the purifier. T2: it has
    the defence's too. Interrupted, it resumes: attacked images are kept in the report's folder.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    specimens = folder_specimens(photos) if photos else photo_specimens(World(world))
    networks = {name: load_purifier(path, device=device) for name, path in _networks(network)}
    asked = [defence_named(word, networks) for word in defences.split(",")]
    adaptive = [defence_named(word, networks) for word in through.split(",") if word]
    plan = ClassificationPlan(steps=steps, seeds=seeds, seed=seed)
    white_box_plan = _white_box_plan(white_box, seeds=seeds, seed=seed)
    names = victims.split(",")
    rows: list[Row] = []
    notes = [classification_notes(plan, white_box_plan if adaptive else None)]
    for name in names:
        victim = load_any_classifier(name, device=device, folder=encoders)
        windows = confident_windows(specimens, victim, per_photo=per_photo, seed=seed, most=most)
        notes.append(f"- {name}: sure of {windows.coverage}.")
        rows += evaluate_classifier(victim, windows, asked, plan, out)
        rows += white_box_rows(victim, windows, adaptive, white_box_plan, out)
    weights = {name: sha256 for name, (_, sha256) in networks.items()}
    meta = provenance(seed=seed, weights=weights, device=device)
    tables = classification_tables(rows, names)
    typer.echo(write_report(out, meta, rows, [*tables, "\n".join(notes)]))
    save_small(draw_curves(rows, names), out / "trade-off.png")


def _networks(named: Sequence[str] | None) -> list[tuple[str, Path]]:
    networks = {name: WEIGHTS_DIRECTORY / name for name in ("purifier", "base")}
    for text in named or ():
        name, mark, path = text.partition("=")
        if not (name.isidentifier() and mark and path):
            raise LabError(f"--network takes NAME=DIRECTORY, not {text}")
        networks[name] = Path(path)
    return list(networks.items())


def _white_box_plan(text: str, *, seeds: int, seed: int) -> WhiteBoxPlan:
    try:
        num_windows, num_draws, steps = (int(word) for word in text.split(","))
    except ValueError as error:
        raise LabError(f"--white-box takes WINDOWS,DRAWS,STEPS, not {text}") from error
    if min(num_windows, num_draws, steps) < 1:
        raise LabError(f"--white-box takes numbers above 0, not {text}")
    return WhiteBoxPlan(
        num_windows=num_windows, num_draws=num_draws, steps=steps, seeds=seeds, seed=seed
    )
