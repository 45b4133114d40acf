"""`codefend-lab trade-off`: what noise, steps and parts of the training cost and buy."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import typer
from pydantic import Field

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.baselines.grid import settings_named
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.errors import LabError
from codefend.lab.evaluate.command import TestedSplit
from codefend.lab.evaluate.context import (
    CPU,
    GPU,
    EvalContext,
    Surrogate,
    TierSettings,
    VictimExperiment,
)
from codefend.lab.evaluate.data import world_scenes
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.experiments.report import write_report
from codefend.lab.plots.style import save_small
from codefend.lab.plots.tradeoff import draw_tradeoff
from codefend.lab.tradeoff.points import (
    curves_of,
    points_of,
    timing_rows,
    tradeoff_rows,
    tradeoff_table,
)
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.purifier import Purifier

__all__ = ["TradeOff"]


class TradeOff(VictimExperiment):
    """Purifiers at several settings: clean quality, T0, T2 and time, on validation scenes.

    The same command compares trainings that differ in one part. Interrupted, it resumes: attacked
    images and answers are kept in the folder of the report.
    """

    name = "trade-off"
    presets: ClassVar = {"cpu": {"adaptive": CPU}, "gpu": {"adaptive": GPU}}
    shortcuts: ClassVar = VictimExperiment.shortcuts | {
        "preset": "budget",
        "purifiers": "purifier",
        "adaptive.steps": "tier-steps",
        "adaptive.num_draws": "eot",
        "adaptive.num_draws_network": "eot",
        "adaptive.gradients": "gradients",
        "adaptive.purifier_dtype": "purifier-dtype",
    }

    preset: Literal["cpu", "gpu"] = "cpu"
    """How much of T1 and T2 is run where nothing else is said."""
    purifiers: tuple[str, ...] = (f"served={WEIGHTS_DIRECTORY / 'purifier'}",)
    """NAME=DIRECTORY; others are compared with the first."""
    settings: tuple[str, ...] = ()
    """LEVELxSTEPS of every purifier, beside its own."""
    surrogate: Path = WEIGHTS_DIRECTORY / "base"
    """The purifier of T1's attacker."""
    num_scenes: int = Field(64, ge=1)
    """Scenes, clean and under T0."""
    white_box_scenes: int = Field(16, ge=1)
    """Scenes of T2, the first of them."""
    split: TestedSplit = TestedSplit.VALIDATION
    """Which scenes: test ones for reports, validation ones for decisions."""
    adaptive: TierSettings = TierSettings()
    rounds: int = Field(20, ge=2)
    """Timed images of every point."""

    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report."""
        pipelines = self._pipelines()
        points = points_of(pipelines, settings_named(",".join(self.settings), "--settings"))
        asked, attacker = self.load(self.victim)
        seed = self.oblivious.seed
        num = {Tier.TRANSFER: self.white_box_scenes, Tier.WHITE_BOX: self.white_box_scenes}
        context = EvalContext(
            victim=asked,
            attacker=attacker,
            # Those that settings are chosen on in an evaluation of the same seed.
            scenes=world_scenes(
                World(self.world), self.split.value, self.num_scenes, seed=seed + 1
            ),
            conditions=[Condition("none", NO_DEFENCE), *(point.condition for point in points)],
            oblivious=self.oblivious,
            tiers=self.adaptive.replace(num_scenes=num),
            surrogate=Surrogate.load(self.surrogate, self.device)[0],
            out=self.out,
        )
        times = timing_rows(points, num_rounds=self.rounds, device=self.device)
        rows = [*times, *tradeoff_rows(context)]
        weights = {name: sha256 for name, (_, sha256) in pipelines.items()}
        meta = self.meta({asked.name: asked.sha256, **weights}, self.split.value)
        sections = [tradeoff_table(rows, points), _notes(context)]
        typer.echo(write_report(self.out, meta, rows, sections))
        save_small(draw_tradeoff(curves_of(rows, points)), self.out / "trade-off.png")

    def _pipelines(self) -> dict[str, tuple[Purifier, str]]:
        found: dict[str, tuple[Purifier, str]] = {}
        for source in self.purifiers:
            name, _, directory = source.partition("=")
            if not (name and directory) or name in found:
                raise LabError(f"--purifier takes NAME=DIRECTORY, each name once; got {source}")
            found[name] = load_purifier(Path(directory), device=self.device)
        return found


def _notes(context: EvalContext) -> str:
    plan, oblivious = context.tiers, context.oblivious
    num = plan.num_scenes[Tier.WHITE_BOX]
    return (
        f"{len(context.scenes)} scenes, {num} of them in T2; radius {oblivious.epsilon}/255; "
        f"{oblivious.seeds} seeds of noise. T0 is the worst of {oblivious.attack} on "
        f"{' and '.join(oblivious.goals)}, {oblivious.steps} steps, answer by answer. T2 is the "
        f"worst of T0, of T1 and of {oblivious.attack} on {' and '.join(plan.goals)} through the "
        f"point itself, {plan.steps} steps, {plan.num_draws_network} draws, by every gradient of "
        f"{', '.join(plan.gradients)}, and of {plan.num_focused} rounds at the answers left. The "
        "lead is in points, paired by scene; where it is positive the first point withstands "
        "more. Brackets are 95 % intervals, of times the 5 % and 95 % quantiles."
    )
