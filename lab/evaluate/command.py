"""``codefend-lab evaluate``: one table of what withstands what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
import typer

from lab.attacks.interface import Tier
from lab.attacks.registry import Goal
from lab.baselines.choose import Trial
from lab.errors import LabError
from lab.evaluate import options
from lab.evaluate.defences import CONDITIONS, Roster
from lab.evaluate.outcomes import Condition
from lab.evaluate.prior import QuestionPrior
from lab.evaluate.provenance import provenance
from lab.evaluate.report import Row, rows_of, write_report
from lab.evaluate.run import WORST, Evaluation, Plan, prior_measures
from lab.evaluate.truth import TrueScene
from lab.evaluate.tune import SettingChooser
from lab.evaluate.worlds import training_questions, world_scenes
from lab.victims.victim import Victim, load_victim
from lab.world.compose import World
from models.manifest import WEIGHTS_DIRECTORY

__all__ = ["register"]

PRIOR_SCENES = 20_000
ALL_DEFENCES = ",".join(CONDITIONS)


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("evaluate")(evaluate)


def evaluate(
    *,
    out: options.Out,
    tier: options.TestedTier = options.TestedTier.T0,
    world: options.WorldFile = Path("work/world.npz"),
    victim: options.VictimSource = str(WEIGHTS_DIRECTORY / "mllm"),
    purifier: options.Purifier = WEIGHTS_DIRECTORY / "purifier",
    base: options.Base = WEIGHTS_DIRECTORY / "base",
    defences: options.Defences = ALL_DEFENCES,
    attack: options.Attack = "apgd",
    goals: options.AttackGoals = "language,margin",
    steps: options.Steps = 100,
    restarts: options.Restarts = 1,
    epsilons: options.Epsilons = "4,8,16",
    main_epsilon: options.MainEpsilon = 8,
    num_scenes: options.NumScenes = 512,
    num_scenes_targeted: options.NumTargeted = 256,
    num_scenes_other: options.NumOther = 128,
    num_validation: options.NumValidation = 64,
    split: options.TestedSplit = options.TestedSplit.TEST,
    seeds: options.Seeds = 3,
    seed: options.Seed = 0,
    attack_dtype: options.AttackDtype = options.Precision.FLOAT32,
    tune_purifier: options.TunePurifier = False,
    device: options.Device = "",
) -> None:
    """Attack, defend and question the victim; print one table and save it as JSON and Markdown.

    Interrupted, it resumes: attacked images and answers are kept in the folder of the report.
    """
    plan = Plan(
        tier=Tier(tier.value),
        attack=attack,
        goals=_goals(goals),
        steps=steps,
        restarts=restarts,
        epsilon=main_epsilon,
        other_epsilons=tuple(radius for radius in _radii(epsilons) if radius != main_epsilon),
        num_scenes_targeted=min(num_scenes, num_scenes_targeted),
        num_scenes_other=min(num_scenes, num_scenes_other),
        seeds=seeds,
        seed=seed,
    )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    scenes = World(world)
    asked = load_victim(victim, device=device)
    attacker = asked.astype(getattr(torch, attack_dtype.value))
    tested = world_scenes(scenes, split.value, num_scenes, seed=seed)
    validation = world_scenes(scenes, "validation", num_validation, seed=seed + 1)
    chooser = SettingChooser(asked, validation, plan.main_attack, out, attacker=attacker)
    roster = Roster(purifier, base, device)
    conditions = roster.conditions(defences.split(","), chooser, tune_purifier=tune_purifier)
    rows = Evaluation(asked, tested, conditions, plan, out, attacker=attacker).rows()
    rows += _prior_rows(asked, tested, plan)
    weights = {asked.name: asked.sha256, **roster.weights}
    meta = provenance(seed=seed, weights=weights, device=device)
    typer.echo(write_report(out, meta, rows, _notes(conditions, roster.trials, plan)))


def _prior_rows(victim: Victim, scenes: Sequence[TrueScene], plan: Plan) -> list[Row]:
    prior = QuestionPrior(training_questions(PRIOR_SCENES, seed=plan.seed))
    return rows_of(
        prior_measures(prior, scenes),
        tier=Tier.CLEAN,
        attack=None,
        attack_label="none",
        defence="none",
        victim=victim.name,
        seeds=plan.seeds,
    )


def _goals(names: str) -> tuple[Goal, ...]:
    wanted = tuple(goal for goal in get_args(Goal) if goal in names.split(","))
    if len(wanted) != len(names.split(",")):
        raise LabError(f"--goals takes names from {', '.join(get_args(Goal))}; got {names}")
    return wanted


def _radii(epsilons: str) -> list[int]:
    try:
        return [int(text) for text in epsilons.split(",")]
    except ValueError as error:
        raise LabError(f"--epsilons takes whole levels of 255, such as 4,8,16: {error}") from error


def _notes(conditions: list[Condition], trials: list[Trial], plan: Plan) -> str:
    """What a reader of the table must know: settings, and how the figures were made."""
    lines = [
        f"Attacks: {plan.attack}, {plan.steps} steps, {plan.restarts} restarts, all against the "
        "undefended model, rounded to whole levels and re-read from PNG. Without a suffix the "
        "cross-entropy of the right caption and answers is moved (of the target caption, where "
        "targeted), with -margin their capped margin, with -encoder the features. Each image is "
        f"attacked once for all its answers; {WORST} counts an answer that any of the untargeted "
        "attacks at the radius spoils. Random defences drew their noise anew for "
        f"{plan.seeds} seeds, deterministic ones give the same for every seed.",
        "Brackets are 95 % intervals: Wilson's for rates, a bootstrap over scenes for the rest. "
        "Repetitions under other seeds do not count as items.",
        "Targeted success is an exact normalised match to the caption of another test scene that "
        "shares no object. Untargeted success (in report.json) counts items that the same "
        "condition answers rightly on the clean image.",
        "Settings, of the baselines each the most accurate on attacked validation scenes:",
        "",
        *(f"- {c.name}: {c.defence.setting}" for c in conditions if c.defence.setting),
        "",
        f"{len(trials)} settings were tried:",
        "",
        "| setting | attacked VQA | clean VQA |",
        "|---|---|---|",
        *(
            f"| {t.defence.name} {t.defence.setting} | {t.attacked:.1%} | {t.clean:.1%} |"
            for t in trials
        ),
    ]
    return "\n".join(lines)
