"""``codefend-lab trade-off``: what noise, steps and parts of the training cost and buy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.baselines.grid import settings_named
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.errors import LabError
from codefend.lab.evaluate import options
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.run import Plan
from codefend.lab.evaluate.tiers.bench import Bench
from codefend.lab.evaluate.tiers.plan import Budget
from codefend.lab.evaluate.tiers.requested import requested_plan
from codefend.lab.evaluate.tiers.surrogate import load_surrogate
from codefend.lab.evaluate.worlds import world_scenes
from codefend.lab.experiments.report import provenance, write_report
from codefend.lab.plots.style import save_small
from codefend.lab.plots.tradeoff import draw_tradeoff
from codefend.lab.tradeoff.evaluation import tradeoff_rows
from codefend.lab.tradeoff.points import points_of
from codefend.lab.tradeoff.report import curves_of, tradeoff_table
from codefend.lab.tradeoff.timing import timing_rows
from codefend.lab.victims.victim import load_victim
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.purifier import Purifier

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("trade-off")(trade_off)


def trade_off(
    *,
    out: options.Out,
    purifier: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIRECTORY; may be repeated. Others are compared with the first."),
    ] = None,
    settings: Annotated[
        str, typer.Option(help="LEVELxSTEPS of every purifier, comma-separated, beside its own.")
    ] = "",
    world: options.WorldFile = Path("work/world.npz"),
    victim: options.VictimSource = str(WEIGHTS_DIRECTORY / "mllm"),
    surrogate: options.Surrogate = WEIGHTS_DIRECTORY / "base",
    steps: options.Steps = 100,
    main_epsilon: options.MainEpsilon = 8,
    num_scenes: options.NumScenes = 64,
    white_box_scenes: Annotated[int, typer.Option(help="Scenes of T2, the first of them.")] = 16,
    tier_steps: options.TierSteps = 0,
    eot: options.Eot = 0,
    gradients: options.Gradients = "",
    budget: options.TierBudget = Budget.CPU,
    split: options.TestedSplit = options.TestedSplit.VALIDATION,
    seeds: options.Seeds = 3,
    seed: options.Seed = 0,
    attack_dtype: options.AttackDtype = options.Precision.FLOAT32,
    purifier_dtype: options.PurifierDtype = options.Precision.FLOAT32,
    rounds: Annotated[int, typer.Option(min=2, help="Timed images of every point.")] = 20,
    device: options.Device = "",
) -> None:
    """Purifiers at several settings: clean quality, T0, T2 and time, on validation scenes.

    The same command compares trainings that differ in one part. Interrupted, it resumes: attacked
    images and answers are kept in the folder of the report.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipelines = _load(purifier or [f"served={WEIGHTS_DIRECTORY / 'purifier'}"], device)
    points = points_of(pipelines, settings_named(settings, "--settings"))
    asked = load_victim(victim, device=device)
    own, _ = load_surrogate(surrogate, device)
    bench = Bench(
        victim=asked,
        attacker=asked.astype(getattr(torch, attack_dtype.value)),
        # Those that settings are chosen on in an evaluation of the same seed.
        scenes=world_scenes(World(world), split.value, num_scenes, seed=seed + 1),
        conditions=[Condition("none", NO_DEFENCE), *(point.condition for point in points)],
        oblivious=Plan(steps=steps, epsilon=main_epsilon, seeds=seeds, seed=seed),
        plan=requested_plan(
            budget,
            gradients=gradients,
            scenes=f"{Tier.WHITE_BOX}={white_box_scenes},{Tier.TRANSFER}={white_box_scenes}",
            autocast=purifier_dtype.autocast,
            numbers={"steps": tier_steps, "num_draws": eot, "num_draws_network": eot},
        ),
        surrogate=own,
        out=out,
    )
    rows = [*timing_rows(points, num_rounds=rounds, device=device), *tradeoff_rows(bench)]
    weights = {name: sha256 for name, (_, sha256) in pipelines.items()}
    meta = provenance(
        seed=seed, weights={asked.name: asked.sha256, **weights}, device=device, data=split.value
    )
    table = tradeoff_table(rows, points)
    typer.echo(write_report(out, meta, rows, [table, _notes(bench)]))
    save_small(draw_tradeoff(curves_of(rows, points)), out / "trade-off.png")


def _load(sources: list[str], device: str) -> dict[str, tuple[Purifier, str]]:
    found: dict[str, tuple[Purifier, str]] = {}
    for source in sources:
        name, _, directory = source.partition("=")
        if not (name and directory) or name in found:
            raise LabError(f"--purifier takes NAME=DIRECTORY, each name once; got {source}")
        found[name] = load_purifier(Path(directory), device=device)
    return found


def _notes(bench: Bench) -> str:
    plan, oblivious = bench.plan, bench.oblivious
    num = plan.num_scenes[Tier.WHITE_BOX]
    return (
        f"{len(bench.scenes)} scenes, {num} of them in T2; radius {oblivious.epsilon}/255; "
        f"{oblivious.seeds} seeds of noise. T0 is the worst of {oblivious.attack} on "
        f"{' and '.join(oblivious.goals)}, {oblivious.steps} steps, answer by answer. T2 is the "
        f"worst of T0, of T1 and of {oblivious.attack} on {' and '.join(plan.goals)} through the "
        f"point itself, {plan.steps} steps, {plan.num_draws_network} draws, by every gradient of "
        f"{', '.join(plan.gradients)}, and of {plan.num_focused} rounds at the answers left. The "
        "lead is in points, paired by scene; where it is positive the first point withstands "
        "more. Brackets are 95 % intervals, of times the 5 % and 95 % quantiles."
    )
