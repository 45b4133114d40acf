"""`codefend-lab trade-off`: what noise, steps and parts of the training cost and buy.

The points of the curve are purifiers, each at several noise levels and numbers of steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import typer
from pydantic import Field

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.baselines.grid import settings_named
from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.errors import LabError
from codefend.lab.evaluate.assess import Assessor
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
from codefend.lab.evaluate.scores import worst
from codefend.lab.evaluate.tiers import white_box_rows
from codefend.lab.evaluate.uploads import Uploader, union_threat
from codefend.lab.experiments.report import Row, Threat, cell, rows_under, write_report
from codefend.lab.experiments.statistics import Estimate
from codefend.lab.experiments.table import Table
from codefend.lab.labels import OURS, UNION
from codefend.lab.plots.style import save_small
from codefend.lab.plots.tradeoff import Curve, Spot, draw_tradeoff
from codefend.lab.progress import progress
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.purifier import Purifier

__all__ = ["Point", "TradeOff", "points_of"]

SIDE_PX = 512
TIME_METRIC = f"milliseconds_{SIDE_PX}px"
NUM_WARM_UP = 2
_TIERS = (Tier.CLEAN, Tier.OBLIVIOUS, Tier.WHITE_BOX)

_HEADS = (
    "purifier",
    "noise level",
    "steps",
    "clean, dB",
    "clean VQA",
    "T0 VQA",
    "T2 VQA",
    "T2, of clean",
    "T2, first minus this",
    "512×512, ms",
)
SERVED = OURS[-1]
"""The first purifier at its own setting; all others are compared with it."""


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
    split: Literal["validation", "test"] = "validation"
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
            scenes=world_scenes(World(self.world), self.split, self.num_scenes, seed=seed + 1),
            conditions=[Condition("none", NO_DEFENCE), *(point.condition for point in points)],
            oblivious=self.oblivious,
            tiers=self.adaptive.replace(num_scenes=num),
            surrogate=Surrogate.load(self.surrogate, self.device)[0],
            out=self.out,
        )
        times = timing_rows(points, num_rounds=self.rounds, device=self.device)
        rows = [*times, *tradeoff_rows(context)]
        weights = {name: sha256 for name, (_, sha256) in pipelines.items()}
        meta = self.meta({asked.name: asked.sha256, **weights}, self.split)
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


@dataclass(frozen=True, slots=True)
class Point:
    """One purifier at one setting.

    Attributes:
        condition: the defence, under the name that rows carry.
        purifier: whose weights.
        noise_level: how much noise, on the scale of its kind.
        num_steps: denoising steps.
    """

    condition: Condition
    purifier: str
    noise_level: float
    num_steps: int


def points_of(
    purifiers: Mapping[str, tuple[Purifier, str]],
    settings: Sequence[tuple[float, int]],
) -> list[Point]:
    """Every purifier at its own setting, then at every other, none twice.

    Args:
        purifiers: name to pipeline and hash of its weights.
        settings: noise level in (0, 1] and number of steps, at least 1.

    Returns:
        The points; the first is named ``purifier``, the others by purifier, level and steps.
    """
    points: list[Point] = []
    for name, (pipeline, sha256) in purifiers.items():
        own = (float(pipeline.config.noise_level), int(pipeline.config.num_steps))
        for level, steps in dict.fromkeys([own, *settings]):
            label = f"{name}@{level:g}x{steps}" if points else SERVED
            defence = purifying(label, pipeline, sha256, noise_level=level, num_steps=steps)
            points.append(Point(Condition(label, defence), name, level, steps))
    return points


def tradeoff_rows(context: EvalContext) -> list[Row]:
    """Every point clean and under T0 on all scenes, then under T2 on as many as its settings say.

    The first point is named as ours, so that its rows hold its lead over every other.

    Args:
        context: its conditions are the points, after `none`.
    """
    uploader, assessor = Uploader(context), Assessor.of(context)
    clean = uploader.clean(len(context.scenes))
    attacked = uploader.oblivious(len(context.scenes))
    rows: list[Row] = []
    unions = {}
    for condition in progress(context.conditions, desc="clean and T0", unit="point"):
        rows += assessor.rows(condition, clean.threat, assessor.scores(condition, clean))
        unions[condition.name] = worst([assessor.scores(condition, each) for each in attacked])
    rows += assessor.all_rows(union_threat(attacked, Tier.OBLIVIOUS), unions)
    return rows + white_box_rows(uploader, assessor)


def timing_rows(points: Sequence[Point], *, num_rounds: int, device: str) -> list[Row]:
    """The median of each point, between its 5 % and 95 % quantiles.

    The points take turns in every round, so that what else the machine does falls on all alike.

    Args:
        points: what is timed.
        num_rounds: how often each of them, after the warm-up.
        device: torch device of the image.
    """
    noise = torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, SIDE_PX, SIDE_PX), generator=noise).to(device)
    times = np.array(
        [
            [_milliseconds(point.condition.defence, image, noise) for point in points]
            for _ in range(NUM_WARM_UP + num_rounds)
        ]
    )[NUM_WARM_UP:]
    low, middle, high = np.quantile(times, [0.05, 0.5, 0.95], axis=0)
    rows: list[Row] = []
    for index, point in enumerate(points):
        figure = Estimate(float(middle[index]), float(low[index]), float(high[index]), num_rounds)
        rows += rows_under(
            Threat(tier=Tier.CLEAN, attack="none"),
            [(None, TIME_METRIC, figure)],
            defence=point.condition.name,
            victim="none",
            seeds=1,
        )
    return rows


def _milliseconds(defence: Defence, image: torch.Tensor, noise: torch.Generator) -> float:
    started_s = time.perf_counter()
    with torch.no_grad():
        defence.apply(image, noise).cpu()
    return 1000 * (time.perf_counter() - started_s)


def tradeoff_table(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """Markdown; the first point, in bold, is what the others are compared with."""
    lines = []
    for point in points:
        cells = [*_setting(point), *_figures(rows, point.condition.name)]
        if point is points[0]:
            cells[:3] = [f"**{text}**" for text in cells[:3]]
        lines.append(cells)
    return Table(_HEADS, lines).markdown()


def _setting(point: Point) -> list[str]:
    return [point.purifier, f"{point.noise_level:g}", str(point.num_steps)]


def _figures(rows: Sequence[Row], name: str) -> list[str]:
    time = _find(rows, name, Tier.CLEAN, TIME_METRIC)
    lead = _find(rows, SERVED, Tier.WHITE_BOX, f"accuracy_lead:{name}")
    return [
        cell(_find(rows, name, Tier.CLEAN, "psnr_db")),
        *(cell(_find(rows, name, tier, "accuracy")) for tier in _TIERS),
        cell(_find(rows, name, Tier.WHITE_BOX, "accuracy_of_clean")),
        cell(lead),
        f"{time.value:.0f} [{time.low:.0f}, {time.high:.0f}]" if time else "",
    ]


def curves_of(rows: Sequence[Row], points: Sequence[Point]) -> list[Curve]:
    """Accuracy against the fidelity of clean images, a curve for each tier, purifier and steps."""
    curves: list[Curve] = []
    for tier in _TIERS[1:]:
        for purifier, num_steps in dict.fromkeys((p.purifier, p.num_steps) for p in points):
            found = []
            for point in points:
                name = point.condition.name
                decibels = _find(rows, name, Tier.CLEAN, "psnr_db")
                accuracy = _find(rows, name, tier, "accuracy")
                if (point.purifier, point.num_steps) == (purifier, num_steps) and (
                    decibels and accuracy
                ):
                    spread = (accuracy.value, accuracy.low, accuracy.high)
                    found.append(Spot(f"{point.noise_level:g}", decibels.value, *spread))
            curves.append(Curve(tier, purifier, num_steps, found))
    return curves


def _find(rows: Sequence[Row], defence: str, tier: Tier, metric: str) -> Row | None:
    attack = "none" if tier is Tier.CLEAN else UNION
    wanted = (defence, tier, attack, metric)
    return next(
        (row for row in rows if (row.defence, row.tier, row.attack, row.metric) == wanted), None
    )
