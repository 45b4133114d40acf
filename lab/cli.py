"""``codefend-lab``: everything that happens before and beside the service."""

from __future__ import annotations

import sys

import typer

from codefend.lab.attacks.command import register as register_attack
from codefend.lab.classification.command import collages
from codefend.lab.classification.command import register as register_classify
from codefend.lab.detection.command import app as detect
from codefend.lab.encoders.command import encoders
from codefend.lab.errors import LabError
from codefend.lab.evaluate.command import register as register_evaluate
from codefend.lab.fidelity.command import register as register_fidelity
from codefend.lab.gallery.command import ask, gallery, picture, sheet
from codefend.lab.plots.report import plot
from codefend.lab.recognition.command import register as register_read
from codefend.lab.tradeoff.command import register as register_tradeoff
from codefend.lab.train.command import app as train
from codefend.lab.world.command import app as data

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
app.command("plot")(plot)
register_read(app)
register_tradeoff(app)


def main() -> None:
    """Run a command; what the user can put right is said in one line, without a traceback."""
    try:
        app()
    except LabError as error:
        typer.echo(f"codefend-lab: {error}", err=True)
        sys.exit(1)
