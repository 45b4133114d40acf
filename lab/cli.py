"""``codefend-lab``: everything that happens before and beside the service."""

from __future__ import annotations

import sys

import typer

from codefend.lab.attack_command import register as register_attack
from codefend.lab.classification.classify import Classify
from codefend.lab.data import app as data
from codefend.lab.detection.command import Detect
from codefend.lab.detection.command import app as detect
from codefend.lab.errors import LabError
from codefend.lab.evaluate.command import Evaluate
from codefend.lab.experiments.settings import Experiment, add_command, add_experiments
from codefend.lab.fidelity.command import Fidelity
from codefend.lab.large import Large
from codefend.lab.playground.app import PlaygroundRun, run_playground
from codefend.lab.plots.report import plot
from codefend.lab.prompts.command import FindPrompt
from codefend.lab.prompts.effect import PromptEffect
from codefend.lab.prompts.generator import TrainGenerator
from codefend.lab.recognition.read import Read
from codefend.lab.schedule import RunParts, run_parts
from codefend.lab.tradeoff.command import TradeOff
from codefend.lab.train.command import app as train

__all__ = ["EXPERIMENTS", "main"]

EXPERIMENTS: tuple[type[Experiment], ...] = (
    *(Evaluate, Detect, TradeOff, Fidelity, Classify, Read, Large),
    *(FindPrompt, PromptEffect, TrainGenerator),
)
"""What `codefend-lab run FILE` runs."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="CoDefend's laboratory: data, attacks, training and evaluation, on your own model too.",
    epilog="""Examples, a purifier for your own model in three commands:

$ codefend-lab train pairs --victim MODEL --data PHOTOS --out work/own/pairs

$ codefend-lab train purifier --victim MODEL --data PHOTOS --pairs work/own/pairs
--runs work/own/runs --weights work/own/weights

$ codefend-lab evaluate --victim MODEL --data PHOTOS --purifier work/own/weights/purifier
--families none --out work/own/report

A published report again:

$ codefend-lab run experiments/report.toml

Each command says more: codefend-lab evaluate --help""",
)
app.add_typer(data, name="data")
app.add_typer(train, name="train")
app.add_typer(detect, name="detect")
register_attack(app)
app.command("plot")(plot)
add_experiments(app, EXPERIMENTS)
add_command(app, "parts", RunParts, run_parts)
add_command(app, "playground", PlaygroundRun, run_playground)


def main() -> None:
    """Run a command; what the user can put right is said in one line, without a traceback."""
    try:
        app()
    except LabError as error:
        typer.echo(f"codefend-lab: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
