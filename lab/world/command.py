"""``codefend-lab data``: the world file, and the shipped gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.errors import LabError
from codefend.lab.world.assets import build_world_file, fetch_packages

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Build the embedded world.")


@app.callback()
def main() -> None:
    """Build the embedded world."""


@app.command("build")
def build(
    out: Annotated[Path, typer.Option(help="World file to write.")] = Path("work/world.npz"),
    photos: Annotated[Path | None, typer.Option(help="Folder of photos of your own.")] = None,
    sprites: Annotated[
        Path | None, typer.Option(help="Folder of sprites named by emoji code point.")
    ] = None,
) -> None:
    """Fetch photos and sprites by the system's package clients (or take yours) and pack them."""
    if (photos is None) != (sprites is None):
        raise LabError("give both --photos and --sprites, or neither")
    if photos is None or sprites is None:
        photos, sprites = fetch_packages(out.parent / "packages")
    build_world_file(photos, sprites, out)
    typer.echo(f"wrote {out} ({out.stat().st_size / 1e6:.0f} MB)")
