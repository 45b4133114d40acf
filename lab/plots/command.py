"""``codefend-lab plot``: pictures from a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.plots.report import plot_report

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("plot")(plot)


def plot(
    report: Annotated[Path, typer.Argument(help="A report.json of the evaluation.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the PNG files.")],
) -> None:
    """Draw accuracy against epsilon and by question type, for every tier of a report."""
    for path in plot_report(report, out):
        typer.echo(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")
