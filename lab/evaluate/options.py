"""The options of ``codefend-lab evaluate``: types, help and allowed values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lab.attacks.interface import Tier

__all__ = [
    "Attack",
    "AttackDtype",
    "AttackGoals",
    "Base",
    "Defences",
    "Device",
    "Epsilons",
    "MainEpsilon",
    "NumOther",
    "NumScenes",
    "NumTargeted",
    "NumValidation",
    "Out",
    "Precision",
    "Purifier",
    "Restarts",
    "Seed",
    "Seeds",
    "Steps",
    "TestedSplit",
    "TestedTier",
    "TunePurifier",
    "VictimSource",
    "WorldFile",
]


class TestedTier(StrEnum):
    """The tiers that the command runs."""

    CLEAN = Tier.CLEAN.value
    T0 = Tier.OBLIVIOUS.value


class TestedSplit(StrEnum):
    """Which scenes: test ones for reports, validation ones for decisions."""

    VALIDATION = "validation"
    TEST = "test"


class Precision(StrEnum):
    """Of the attacker's copy of the victim; scores are always in single precision."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Out = Annotated[Path, typer.Option(help="Folder of the report; a run resumes from it.")]
WorldFile = Annotated[Path, typer.Option("--world", help="World file of `data build`.")]
VictimSource = Annotated[str, typer.Option("--victim", help="Model directory or hub id.")]
Purifier = Annotated[Path, typer.Option(help="Our purifier.")]
Base = Annotated[Path, typer.Option(help="DiffPure's network, before fine-tuning.")]
Defences = Annotated[str, typer.Option(help="Comma-separated names.")]
Attack = Annotated[str, typer.Option(help="Name of the attack.")]
AttackGoals = Annotated[str, typer.Option("--goals", help="What the untargeted attacks move.")]
Steps = Annotated[int, typer.Option(help="Attack steps.")]
Restarts = Annotated[int, typer.Option(help="Attack restarts.")]
Epsilons = Annotated[str, typer.Option(help="Radii in levels of 255, comma-separated.")]
MainEpsilon = Annotated[int, typer.Option(help="The radius tried on all scenes.")]
NumScenes = Annotated[int, typer.Option(help="Scenes, clean and at the main radius.")]
NumTargeted = Annotated[
    int, typer.Option("--num-scenes-targeted", help="Scenes also attacked towards a caption.")
]
NumOther = Annotated[int, typer.Option("--num-scenes-other", help="Scenes at other radii.")]
NumValidation = Annotated[int, typer.Option(help="Scenes that settings are chosen on.")]
Seeds = Annotated[int, typer.Option(help="Seeds of the defence's noise.")]
Seed = Annotated[int, typer.Option(help="Of scenes, targets and random starts.")]
AttackDtype = Annotated[Precision, typer.Option(help="Precision of the gradients.")]
Device = Annotated[str, typer.Option(help="Torch device; found where empty.")]
TunePurifier = Annotated[
    bool, typer.Option("--defence-grid", help="Choose our noise level on validation, too.")
]
