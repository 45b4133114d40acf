"""``codefend-lab``: everything that happens before and beside the service."""

from __future__ import annotations

import sys

import typer

from lab.attacks.command import register as register_attack
from lab.classification.command import collages
from lab.classification.command import register as register_classify
from lab.detection.command import app as detect
from lab.encoders.command import encoders
from lab.errors import LabError
from lab.evaluate.command import register as register_evaluate
from lab.fidelity.command import register as register_fidelity
from lab.gallery.command import ask, gallery, picture, sheet
from lab.plots.command import register as register_plot
from lab.recognition.command import register as register_read
from lab.tradeoff.command import register as register_tradeoff
from lab.train.command import app as train
from lab.world.command import app as data

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="CoDefend's laboratory.")
data.command("gallery")(gallery)
data.command("picture")(picture)
data.command("sheet")(sheet)
data.command("ask")(ask)
data.command("collages")(collages)
data.command("encoders")(encoders)
app.add_typer(data, name="data")
app.add_typer(train, name="train")
app.add_typer(detect, name="detect")
register_attack(app)
register_evaluate(app)
register_classify(app)
register_fidelity(app)
register_plot(app)
register_read(app)
register_tradeoff(app)


def main() -> None:
    """Run a command; what the user can put right is said in one line, without a traceback."""
    try:
        app()
    except LabError as error:
        typer.echo(f"codefend-lab: {error}", err=True)
        sys.exit(1)
