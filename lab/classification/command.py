"""``codefend-lab classify``: what a purifier restores of a pretrained classifier's sight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from lab.baselines.blur import blur, median
from lab.baselines.compression import bit_depth, jpeg
from lab.baselines.defence import NO_DEFENCE
from lab.baselines.grid import diffpure_grid, settings_named
from lab.baselines.purifiers import load_purifier, purifying
from lab.classification.collages import build_collages
from lab.classification.evaluation import ClassificationPlan, evaluate_classifier
from lab.classification.windows import LEAST_CONFIDENCE, SIDE_PX, confident_windows
from lab.errors import LabError
from lab.evaluate.provenance import provenance
from lab.evaluate.report import Row, cell, write_report
from lab.evaluate.specimens import folder_specimens, photo_specimens
from lab.labels import UNION
from lab.victims.efficientnet import HELD_OUT, SURROGATE, load_classifier
from lab.world.compose import World
from models.manifest import WEIGHTS_DIRECTORY

__all__ = ["collages", "register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("classify")(classify)


def collages(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("work/collages"),
    packages: Annotated[Path, typer.Option(help="Folder of the packages.")] = Path("work/packages"),
    seed: Annotated[int, typer.Option(help="Of windows and places.")] = 0,
) -> None:
    """Lay photographed things on photographed places, for `classify --photos`."""
    num = build_collages(packages, out, seed=seed)
    typer.echo(f"wrote {num} pictures to {out}")


def classify(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the report; a run resumes from it.")],
    victims: Annotated[
        str, typer.Option(help="Classifiers, comma-separated.")
    ] = f"{SURROGATE},{HELD_OUT}",
    world: Annotated[Path, typer.Option(help="World file, for its test photos.")] = Path(
        "work/world.npz"
    ),
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photos, instead of the world's.")
    ] = None,
    purifier: Annotated[Path, typer.Option(help="Our purifier.")] = WEIGHTS_DIRECTORY / "purifier",
    base: Annotated[Path, typer.Option(help="DiffPure's network.")] = WEIGHTS_DIRECTORY / "base",
    diffpure: Annotated[
        str, typer.Option(help="Its settings, LEVELxSTEPS comma-separated; all where empty.")
    ] = "",
    per_photo: Annotated[int, typer.Option(min=1, help="Windows looked at in each photo.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Attack steps.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the defence's noise.")] = 3,
    seed: Annotated[int, typer.Option(help="Of windows and random starts.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device; found where empty.")] = "",
) -> None:
    """Attack ImageNet classifiers on windows of photos, and count the predictions that survive.

    T0: the attacker has the classifier's gradients and does not know of the purifier. Interrupted,
    it resumes: attacked images are kept in the folder of the report.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    specimens = folder_specimens(photos) if photos else photo_specimens(World(world))
    ours, ours_sha256 = load_purifier(purifier, device=device)
    base_pipeline, base_sha256 = load_purifier(base, device=device)
    defences = [
        NO_DEFENCE,
        purifying("purifier", ours, ours_sha256),
        *diffpure_grid(base_pipeline, base_sha256, settings_named(diffpure, "--diffpure")),
        *(jpeg(quality) for quality in (30, 50, 75)),
        *(bit_depth(bits) for bits in (3, 4)),
        *(blur(sigma_px) for sigma_px in (0.75, 1.5)),
        *(median(size_px) for size_px in (3, 5)),
    ]
    plan = ClassificationPlan(steps=steps, seeds=seeds, seed=seed)
    rows: list[Row] = []
    notes = [_notes(plan)]
    for name in victims.split(","):
        if name not in (SURROGATE, HELD_OUT):
            raise LabError(f"unknown classifier {name}; known: {SURROGATE}, {HELD_OUT}")
        victim = load_classifier(name, device=device)
        windows = confident_windows(specimens, victim, per_photo=per_photo, seed=seed)
        notes.append(f"- {name}: sure of {windows.coverage}.")
        rows += evaluate_classifier(victim, windows, defences, plan, out)
    weights = {"purifier": ours_sha256, "base": base_sha256}
    meta = provenance(seed=seed, weights=weights, device=device)
    tables = [_table(rows, name) for name in victims.split(",")]
    typer.echo(write_report(out, meta, rows, "\n\n".join(notes), tables=tables))


def _notes(plan: ClassificationPlan) -> str:
    return (
        f"T0: {plan.attack}, {plan.steps} steps, by cross-entropy and by margin, on the undefended "
        "classifier; each figure is the share of windows whose class is that of the clean, "
        f"undefended window, worst of both attacks. Windows are {SIDE_PX} pixels wide; only those "
        f"whose likeliest class has at least {LEAST_CONFIDENCE:.0%} unattacked are asked about, "
        "chosen before any attack. Brackets are 95 % intervals by a bootstrap over whole photos. "
        "Of the baselines every setting tried is shown: to read off the best flatters them. Ours "
        f"learned on training photos attacked on {SURROGATE}; {HELD_OUT} no pair ever saw."
    )


def _table(rows: list[Row], victim: str) -> str:
    own = [row for row in rows if row.victim == victim and row.attack in {"none", UNION}]
    columns = sorted({row.epsilon for row in own})
    heads = ["clean" if not epsilon else f"{round(epsilon * 255)}/255" for epsilon in columns]
    lines = [
        f"| {victim} | " + " | ".join(heads) + " | n |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for defence in dict.fromkeys(row.defence for row in own):
        found: dict[float, Row] = {row.epsilon: row for row in own if row.defence == defence}
        cells = [cell(found.get(epsilon)) for epsilon in columns]
        lines.append(f"| {defence} | " + " | ".join(cells) + f" | {found[columns[0]].n} |")
    return "\n".join(lines)
