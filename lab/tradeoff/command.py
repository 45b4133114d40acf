"""`codefend-lab trade-off`: what noise, steps, codecs and parts of the training cost and buy.

The points of the curve are purifiers, each at several noise levels and numbers of steps, with a
codec or filter behind it or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import typer
from pydantic import Field

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.detection.scoring import SuspicionScorer
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
from codefend.lab.experiments.report import Row, cell, write_report
from codefend.lab.experiments.table import Table
from codefend.lab.fidelity.samples import photo_samples
from codefend.lab.plots.style import save_small
from codefend.lab.plots.tradeoff import Curve, Spot, draw_pareto, draw_tradeoff
from codefend.lab.progress import progress
from codefend.lab.tradeoff.costs import (
    PHOTO,
    TIME_METRIC,
    cost_panels,
    find_row,
    front_notes,
    photo_rows,
    timing_rows,
)
from codefend.lab.tradeoff.points import SERVED, Point, points_of
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.purifier import Purifier

__all__ = ["TradeOff"]

_TIERS = (Tier.CLEAN, Tier.OBLIVIOUS, Tier.WHITE_BOX)

_HEADS = (
    "purifier",
    "noise level",
    "steps",
    "clean, dB",
    "photos, dB",
    "clean VQA",
    "T0 VQA",
    "T0, first minus this",
    "T2 VQA",
    "T2, of clean",
    "T2, first minus this",
    "512×512, ms",
)


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
    """LEVELxSTEPS of every purifier beside its own, or NAME:LEVELxSTEPS; +jpeg:75 stands behind,
    /LEVELxSTEPS@0.8 is what images of a suspicion above 0.8 go through instead."""
    detector: Path = WEIGHTS_DIRECTORY / "detector"
    """Of suspicion, behind the first purifier; read where a setting chooses by it."""
    surrogate: Path = WEIGHTS_DIRECTORY / "base"
    """The purifier of T1's attacker."""
    num_scenes: int = Field(64, ge=1)
    """Scenes, clean and under T0."""
    white_box_scenes: int = Field(16, ge=0)
    """Scenes of T2, the first of them; 0 leaves T2 out."""
    with_photos: bool = False
    """Whether the test photos, which nobody attacks, are purified, too."""
    split: Literal["validation", "test"] = "validation"
    """Which scenes: test ones for reports, validation ones for decisions."""
    adaptive: TierSettings = TierSettings()
    rounds: int = Field(20, ge=2)
    """Timed images of every point."""

    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report."""
        pipelines = self._pipelines()
        scorer = self._scorer(pipelines)
        points = points_of(pipelines, self.settings, scorer.choice if scorer else None)
        asked, attacker = self.load(self.victim)
        seed = self.oblivious.seed
        num = self.white_box_scenes or 1
        world = World(self.world)
        context = EvalContext(
            victim=asked,
            attacker=attacker,
            # Those that settings are chosen on in an evaluation of the same seed.
            scenes=world_scenes(world, self.split, self.num_scenes, seed=seed + 1),
            conditions=[Condition("none", NO_DEFENCE), *(point.condition for point in points)],
            oblivious=self.oblivious,
            tiers=self.adaptive.replace(num_scenes={Tier.TRANSFER: num, Tier.WHITE_BOX: num}),
            surrogate=Surrogate.load(self.surrogate, self.device)[0],
            out=self.out,
        )
        rows = tradeoff_rows(context, with_white_box=self.white_box_scenes > 0)
        if self.with_photos:
            rows += photo_rows(points, photo_samples(world), seed=seed)
        # Last, and anew in every run: what is above is kept.
        rows += timing_rows(points, num_rounds=self.rounds, device=self.device)
        weights = {name: sha256 for name, (_, sha256) in pipelines.items()}
        weights |= {"detector": scorer.sha256} if scorer else {}
        meta = self.meta({asked.name: asked.sha256, **weights}, self.split)
        notes = _notes(context, with_white_box=self.white_box_scenes > 0)
        sections = [tradeoff_table(rows, points), front_notes(rows, points), notes]
        typer.echo(write_report(self.out, meta, rows, sections))
        if self.with_photos:
            save_small(draw_pareto(cost_panels(rows, points)), self.out / "pareto.png")
        save_small(draw_tradeoff(curves_of(rows, points)), self.out / "trade-off.png")

    def _pipelines(self) -> dict[str, tuple[Purifier, str]]:
        found: dict[str, tuple[Purifier, str]] = {}
        for source in self.purifiers:
            name, _, directory = source.partition("=")
            if not (name and directory) or name in found:
                raise LabError(f"--purifier takes NAME=DIRECTORY, each name once; got {source}")
            found[name] = load_purifier(Path(directory), device=self.device)
        return found

    def _scorer(self, pipelines: Mapping[str, tuple[Purifier, str]]) -> SuspicionScorer | None:
        if not any("/" in word for word in self.settings):
            return None
        (name, (pipeline, sha256)), *_ = pipelines.items()
        behind = purifying(name, pipeline, sha256)
        return SuspicionScorer.load(self.detector, behind, device=self.device)


def _notes(context: EvalContext, *, with_white_box: bool) -> str:
    plan, oblivious = context.tiers, context.oblivious
    notes = (
        f"{len(context.scenes)} scenes; radius {oblivious.epsilon}/255; {oblivious.seeds} seeds of "
        f"noise. T0 is the worst of {oblivious.attack} on {' and '.join(oblivious.goals)}, "
        f"{oblivious.steps} steps, answer by answer. A lead is in points, paired by scene; where "
        "it is positive the first point withstands more. Brackets are 95 % intervals, of times "
        "the 5 % and 95 % quantiles."
    )
    if not with_white_box:
        return notes
    return notes + (
        f" T2, on {plan.num_scenes[Tier.WHITE_BOX]} of the scenes, is the worst of T0, of T1 and "
        f"of {oblivious.attack} on {' and '.join(plan.goals)} through the point itself, "
        f"{plan.steps} steps, {plan.num_draws_network} draws, by every gradient of "
        f"{', '.join(plan.gradients)}, and of {plan.num_focused} rounds at the answers left."
    )


def tradeoff_rows(context: EvalContext, *, with_white_box: bool) -> list[Row]:
    """Every point clean and under T0 on all scenes, then under T2 on as many as its settings say.

    The first point is named as ours, so that its rows hold its lead over every other.

    Args:
        context: its conditions are the points, after `none`.
        with_white_box: whether T2 is tried at all.
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
    return rows + (white_box_rows(uploader, assessor) if with_white_box else [])


def tradeoff_table(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """Markdown; the first point, in bold, is what the others are compared with.

    Columns that nothing was measured for are left out.
    """
    lines = []
    for point in points:
        cells = [_named(point), f"{point.noise_level:g}", str(point.num_steps)]
        if point is points[0]:
            cells = [f"**{text}**" for text in cells]
        lines.append([*cells, *_figures(rows, point.condition.name)])
    kept = [n for n in range(len(_HEADS)) if any(line[n] for line in lines)]
    return Table([_HEADS[n] for n in kept], [[line[n] for n in kept] for line in lines]).markdown()


def _named(point: Point) -> str:
    first = f"{point.purifier}, then {point.behind}" if point.behind else point.purifier
    instead, _, above = point.harsh.partition("@")
    return f"{first}; {instead} where suspicion > {above}" if above else first


def _figures(rows: Sequence[Row], name: str) -> list[str]:
    time = find_row(rows, name, Tier.CLEAN, TIME_METRIC)
    clean, t0, t2 = (find_row(rows, name, tier, "accuracy") for tier in _TIERS)
    leads = [find_row(rows, SERVED, tier, f"accuracy_lead:{name}") for tier in _TIERS[1:]]
    return [
        cell(find_row(rows, name, Tier.CLEAN, "psnr_db")),
        cell(find_row(rows, name, Tier.CLEAN, "psnr_db", task=PHOTO)),
        cell(clean),
        cell(t0),
        cell(leads[0]),
        cell(t2),
        cell(find_row(rows, name, Tier.WHITE_BOX, "accuracy_of_clean")),
        cell(leads[1]),
        f"{time.value:.0f} [{time.low:.0f}, {time.high:.0f}]" if time else "",
    ]


def curves_of(rows: Sequence[Row], points: Sequence[Point]) -> list[Curve]:
    """Accuracy against the fidelity of clean images, a curve for each tier, purifier and steps."""
    curves: list[Curve] = []
    for tier in _TIERS[1:]:
        for family, num_steps in dict.fromkeys((p.family, p.num_steps) for p in points):
            found = []
            for point in points:
                name = point.condition.name
                decibels = find_row(rows, name, Tier.CLEAN, "psnr_db")
                accuracy = find_row(rows, name, tier, "accuracy")
                if (point.family, point.num_steps) == (family, num_steps) and (
                    decibels and accuracy
                ):
                    spread = (accuracy.value, accuracy.low, accuracy.high)
                    found.append(Spot(f"{point.noise_level:g}", decibels.value, *spread))
            curves.append(Curve(tier, family, num_steps, found))
    return curves
