"""``codefend-lab data gallery``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.gallery.build import build_gallery
from lab.victims.victim import load_victim
from lab.world.compose import World
from models.manifest import WEIGHTS_DIRECTORY

__all__ = ["gallery"]


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
    build_gallery(
        World(world), load_victim(victim), out, num_scenes=num_scenes, epsilon=epsilon, steps=steps
    )
