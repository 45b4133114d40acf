"""``codefend-lab data gallery``, ``picture``, ``sheet`` and ``ask``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.gallery.ask import ask_gallery
from codefend.lab.gallery.build import build_gallery
from codefend.lab.gallery.picture import draw_picture
from codefend.lab.gallery.sheet import draw_gallery_sheet
from codefend.lab.precision import compute_dtype
from codefend.lab.victims.victim import load_victim
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.loading import load_purifier

__all__ = ["ask", "gallery", "picture", "sheet"]


def gallery(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("gallery"),
    world: Annotated[Path, typer.Option(help="World file from `data build`.")] = Path(
        "work/world.npz"
    ),
    victim: Annotated[str, typer.Option(help="Model directory or hub id.")] = str(
        WEIGHTS_DIRECTORY / "mllm"
    ),
    num_scenes: Annotated[int, typer.Option("--num", help="Scenes to ship.")] = 48,
    epsilon: Annotated[float, typer.Option(help="Bound, as a fraction of the range.")] = 8 / 255,
    steps: Annotated[int, typer.Option(help="APGD steps.")] = 100,
) -> None:
    """Compose and attack the shipped test scenes."""
    attacked = load_victim(victim).astype(compute_dtype(torch.device("cpu")))
    build_gallery(World(world), attacked, out, num_scenes=num_scenes, epsilon=epsilon, steps=steps)


def picture(
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("docs/attack-and-defence.png"),
    gallery: Annotated[Path, typer.Option(help="Folder of `data gallery`.")] = Path("gallery"),
    victim: Annotated[str, typer.Option(help="Model directory or hub id.")] = str(
        WEIGHTS_DIRECTORY / "mllm"
    ),
    purifier: Annotated[Path, typer.Option(help="Purifier directory.")] = WEIGHTS_DIRECTORY
    / "purifier",
) -> None:
    """Draw the README's picture from real answers."""
    pipeline = load_purifier(purifier)
    draw_picture(gallery, load_victim(victim), pipeline, out)


def sheet(
    out: Annotated[Path, typer.Option(help="PNG, JPEG or WebP to write.")],
    gallery: Annotated[Path, typer.Option(help="Folder of `data gallery`.")] = Path("gallery"),
    victim: Annotated[str, typer.Option(help="Model directory or hub id.")] = str(
        WEIGHTS_DIRECTORY / "mllm"
    ),
    purifier: Annotated[Path, typer.Option(help="Purifier directory.")] = WEIGHTS_DIRECTORY
    / "purifier",
    num_scenes: Annotated[int, typer.Option("--num", min=1, help="Scenes to show.")] = 4,
) -> None:
    """Draw scenes clean, attacked, purified, and what is left, with the model's answers."""
    pipeline = load_purifier(purifier)
    draw_gallery_sheet(gallery, load_victim(victim), pipeline, out, num_scenes=num_scenes)


def ask(
    url: Annotated[str, typer.Option(help="Where the service answers.")] = "http://127.0.0.1:8000",
    gallery: Annotated[Path, typer.Option(help="Folder of `data gallery`.")] = Path("gallery"),
    key: Annotated[str, typer.Option(envvar="CODEFEND_API_KEY", help="API key.")] = "",
    image: Annotated[str, typer.Option(help="attacked or clean")] = "attacked",
) -> None:
    """Ask a running service every question of the gallery and count the right answers."""
    typer.echo(str(ask_gallery(gallery, url, key=key, image=image)))
