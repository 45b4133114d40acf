"""The options of ``codefend-lab evaluate``: types, help and allowed values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from codefend.lab.attacks.interface import Tier
from codefend.lab.errors import LabError
from codefend.lab.evaluate.tiers.plan import Budget
from codefend.lab.folders.source import Data, SizePx

__all__ = [
    "Attack",
    "AttackDtype",
    "AttackGoals",
    "Base",
    "CurveScenes",
    "CurveSteps",
    "Data",
    "DefenceUrl",
    "Defences",
    "Device",
    "Eot",
    "Epsilons",
    "Families",
    "FamilyScenes",
    "Gradients",
    "MainEpsilon",
    "NumOther",
    "NumScenes",
    "NumTargeted",
    "NumValidation",
    "Out",
    "Precision",
    "Purifier",
    "PurifierDtype",
    "Queries",
    "Restarts",
    "Seed",
    "Seeds",
    "ServiceKey",
    "SizePx",
    "Steps",
    "Surrogate",
    "SurrogateLevel",
    "SurrogateModels",
    "TestedSplit",
    "TierBudget",
    "TierGoals",
    "TierScenes",
    "TierSteps",
    "Tiers",
    "TunePurifier",
    "VictimSource",
    "WorldFile",
    "parse_tiers",
]


class TestedSplit(StrEnum):
    """Which scenes: test ones for reports, validation ones for decisions."""

    VALIDATION = "validation"
    TEST = "test"


class Precision(StrEnum):
    """Of the attacker's copy of the victim; scores are always in single precision."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def autocast(self) -> str:
        """The torch dtype to multiply in; empty for single precision, which needs no autocast."""
        return "" if self is Precision.FLOAT32 else self.value


def parse_tiers(names: str) -> tuple[Tier, ...]:
    """The tiers of ``--tier``: ``all``, or comma-separated names.

    Raises:
        LabError: for a name that is no tier.
    """
    if names == "all":
        return tuple(tier for tier in Tier if tier is not Tier.CLEAN)
    try:
        return tuple(sorted({Tier(name) for name in names.split(",")}))
    except ValueError as error:
        raise LabError(f"--tier takes all, or names from {', '.join(Tier)}: {error}") from error


Tiers = Annotated[str, typer.Option("--tier", help="all, or names such as t0,t1; see docs.")]
TierBudget = Annotated[Budget, typer.Option("--budget", help="How much of T1 to T4 is run.")]
Surrogate = Annotated[Path, typer.Option(help="The purifier of T1's attacker.")]
SurrogateLevel = Annotated[
    float, typer.Option("--surrogate-noise-level", help="T1's largest; the surrogate's own if 0.")
]
TierGoals = Annotated[str, typer.Option(help="What T1 and T2 move; the budget's where empty.")]
TierSteps = Annotated[int, typer.Option(help="Steps of T1 and T2; the budget's where 0.")]
TierScenes = Annotated[
    str, typer.Option(help="Scenes by tier, such as t1=64,t2=32; else the budget's.")
]
Families = Annotated[
    str, typer.Option(help="Attacks of the suite that T0 runs too: all, none, or their names.")
]
SurrogateModels = Annotated[
    str, typer.Option(help="MLLMs of the ensemble's attacker, comma-separated.")
]
FamilyScenes = Annotated[int, typer.Option(help="Scenes of the suite; the budget's where 0.")]
Eot = Annotated[int, typer.Option(help="Draws averaged at each step of T2; the budget's if 0.")]
Gradients = Annotated[str, typer.Option(help="Of T2: exact, bpda, surrogate.")]
CurveSteps = Annotated[str, typer.Option(help="Steps of T2's curve.")]
CurveScenes = Annotated[int, typer.Option(help="Scenes of T2's curve; the budget's where 0.")]
Queries = Annotated[str, typer.Option(help="T4's budgets for each image, in HTTP requests.")]
DefenceUrl = Annotated[
    str, typer.Option(help="Running services for T4, comma-separated: full and minimal.")
]
ServiceKey = Annotated[
    str, typer.Option(help="API key of those services.", envvar="CODEFEND_LAB_SERVICE_KEY")
]
PurifierDtype = Annotated[Precision, typer.Option(help="Of purifiers under attack (T1, T2).")]
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
