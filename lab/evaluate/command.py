"""``codefend-lab evaluate``: one table of what withstands what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import typer

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.filters import gaussian_noise
from codefend.lab.baselines.grid import Trial
from codefend.lab.errors import LabError
from codefend.lab.evaluate import options
from codefend.lab.evaluate.checks import CONTROLS, banner, check_report
from codefend.lab.evaluate.defences import CONDITIONS, USUAL_CONDITIONS, Roster
from codefend.lab.evaluate.findings import findings
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.pictures import draw_examples
from codefend.lab.evaluate.prior import QuestionPrior
from codefend.lab.evaluate.run import Evaluation, Plan, prior_measures
from codefend.lab.evaluate.sources import folder_material, world_material
from codefend.lab.evaluate.tier_tables import oblivious_table, suite_table, tier_tables
from codefend.lab.evaluate.tiers.bench import Bench, Surrogate
from codefend.lab.evaluate.tiers.evaluation import tier_rows
from codefend.lab.evaluate.tiers.families import labels_of
from codefend.lab.evaluate.tiers.notes import check_notes, tier_notes
from codefend.lab.evaluate.tiers.plan import Budget, TierPlan
from codefend.lab.evaluate.tiers.requested import requested_goals, requested_numbers, requested_plan
from codefend.lab.evaluate.tiers.suite import variants_named
from codefend.lab.evaluate.tiers.surrogate import load_surrogate
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.evaluate.tune import SettingChooser
from codefend.lab.evaluate.worlds import training_questions
from codefend.lab.experiments.report import Row, Threat, provenance, rows_under, write_report
from codefend.lab.folders.source import open_data
from codefend.lab.labels import UNION
from codefend.lab.plots.report import plot_report
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.victim import Victim, load_victim
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["register"]

PRIOR_SCENES = 20_000
ALL_DEFENCES = ",".join(USUAL_CONDITIONS)
CONTROL_NOISE = 0.08  # as much as the shipped purifier adds, without its network


def register(app: typer.Typer) -> None:
    """Adds the command to ``codefend-lab``."""
    app.command("evaluate")(evaluate)


def evaluate(
    *,
    out: options.Out,
    tier: options.Tiers = Tier.OBLIVIOUS.value,
    budget: options.TierBudget = Budget.CPU,
    world: options.WorldFile = Path("work/world.npz"),
    data: options.Data = "",
    size_px: options.SizePx = 224,
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
    surrogate: options.Surrogate = WEIGHTS_DIRECTORY / "base",
    surrogate_noise_level: options.SurrogateLevel = 0.0,
    tier_goals: options.TierGoals = "",
    tier_steps: options.TierSteps = 0,
    tier_scenes: options.TierScenes = "",
    families: options.Families = "all",
    surrogate_models: options.SurrogateModels = str(WEIGHTS_DIRECTORY / "surrogate"),
    family_scenes: options.FamilyScenes = 0,
    eot: options.Eot = 0,
    gradients: options.Gradients = "",
    curve_steps: options.CurveSteps = "",
    curve_scenes: options.CurveScenes = 0,
    queries: options.Queries = "",
    defence_url: options.DefenceUrl = "",
    service_key: options.ServiceKey = "",
    purifier_dtype: options.PurifierDtype = options.Precision.FLOAT32,
) -> None:
    """Attack, defend and question the victim; save tables as JSON and Markdown, print the latter.

    Interrupted, it resumes: attacked images and answers are kept in the folder of the report.
    Where a check of the report fails, everything is written all the same, under a banner, and the
    command ends with 1.
    """
    tiers = options.parse_tiers(tier)
    services = _connect(tiers, defence_url, service_key)
    tier_plan = requested_plan(
        budget,
        goals=tier_goals,
        gradients=gradients,
        scenes=tier_scenes,
        curve_steps=curve_steps,
        queries=queries,
        autocast=purifier_dtype.autocast,
        numbers={
            "steps": tier_steps,
            "num_draws": eot,
            "num_draws_network": eot,
            "num_scenes_curve": curve_scenes,
            "num_scenes_families": family_scenes,
        },
    )
    plan = Plan(
        tier=Tier.OBLIVIOUS if Tier.OBLIVIOUS in tiers else Tier.CLEAN,
        attack=attack,
        goals=requested_goals(goals, "--goals"),
        steps=steps,
        restarts=restarts,
        epsilon=main_epsilon,
        other_epsilons=_other_radii(epsilons, main_epsilon),
        num_scenes_targeted=min(num_scenes, num_scenes_targeted),
        num_scenes_other=min(num_scenes, num_scenes_other),
        seeds=seeds,
        seed=seed,
    )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    asked = load_victim(victim, device=device)
    attacker = asked.astype(getattr(torch, attack_dtype.value))
    numbers = {"num": num_scenes, "num_validation": num_validation}
    material = (
        folder_material(open_data(data, size_px), asked, split.value, out=out, **numbers)
        if data
        else world_material(world, split.value, seed=seed, **numbers)
    )
    chooser = SettingChooser(asked, material.validation, plan.main_attack, out, attacker=attacker)
    roster = Roster(purifier, base, device)
    names = _with_controls(defences.split(","), tiers)
    conditions = roster.conditions(names, chooser, tune_purifier=tune_purifier)
    rows: list[Row] = []
    if {Tier.CLEAN, Tier.OBLIVIOUS} & set(tiers):
        rows += Evaluation(asked, material.tested, conditions, plan, out, attacker=attacker).rows()
    notes = [material.note, _notes(conditions, roster.trials, plan)]
    variants = variants_named(families) if Tier.OBLIVIOUS in tiers else ()
    own, roster.weights["surrogate"] = load_surrogate(surrogate, device, surrogate_noise_level)
    bench = _bench(asked, attacker, material.tested, conditions, plan, tier_plan, own, out)
    if variants or set(tiers) - {Tier.CLEAN, Tier.OBLIVIOUS}:
        joined = _surrogate_models(surrogate_models, attacker, device)
        rows += tier_rows(bench, tiers, services, variants=variants, surrogates=joined)
        notes.append(tier_notes(bench, tiers, num_services=len(services)))
    rows += [] if data else _prior_rows(asked, material.tested, plan)
    used = {asked.name: asked.sha256, **roster.weights}
    meta = provenance(seed=seed, weights=used, device=device, data=material.note)
    draw_examples(bench, tiers, out / "examples.webp")
    _finish(out, meta, rows, notes, tiers, labels_of(variants))


def _bench(
    victim: Victim,
    attacker: Victim,
    scenes: Sequence[TrueScene],
    conditions: Sequence[Condition],
    plan: Plan,
    tier_plan: TierPlan,
    surrogate: Surrogate,
    out: Path,
) -> Bench:
    """T0's evaluation with what the other tiers need: among the conditions, noise as a control."""
    return Bench(
        victim=victim,
        attacker=attacker,
        scenes=scenes,
        conditions=[*conditions, Condition("noise", gaussian_noise(CONTROL_NOISE))],
        oblivious=plan,
        plan=tier_plan,
        surrogate=surrogate,
        out=out,
    )


def _connect(tiers: Sequence[Tier], urls: str, key: str) -> list[ServiceClient]:
    """Clients of the running services; says at once, not after hours, where T4 will be missing."""
    if Tier.QUERY not in tiers or urls:
        return [ServiceClient.connect(url, key=key) for url in urls.split(",") if url]
    hint = "T4 needs --defence-url: start `codefend serve`, once for each disclosure setting"
    if set(tiers) == {Tier.QUERY}:
        raise LabError(hint)
    typer.echo(f"codefend-lab: {hint}; the report's checks will fail without it", err=True)
    return []


def _other_radii(epsilons: str, main_epsilon: int) -> tuple[int, ...]:
    radii = requested_numbers(epsilons, "--epsilons")
    return tuple(radius for radius in radii if radius != main_epsilon)


def _with_controls(names: list[str], tiers: Sequence[Tier]) -> list[str]:
    """White-box figures come with the controls that the same attacker must break."""
    controls = [name for name in CONTROLS if name in CONDITIONS and name not in names]
    return [*names, *controls] if Tier.WHITE_BOX in tiers else names


def _surrogate_models(sources: str, attacker: Victim, device: str) -> list[Victim]:
    """Further models of the ensemble's attacker, in the attacker's precision."""
    models = [load_victim(source, device=device) for source in sources.split(",") if source]
    return [model.astype(attacker.dtype) for model in models]


def _finish(
    out: Path,
    meta: dict[str, Any],
    rows: Sequence[Row],
    notes: Sequence[str],
    tiers: Sequence[Tier],
    suite: Collection[str],
) -> None:
    """Writes everything; then ends with 1 where a check failed."""
    checks = check_report(rows, tiers)
    warning = banner(checks)
    typer.echo(
        write_report(
            out,
            meta,
            rows,
            [
                warning,
                oblivious_table([row for row in rows if row.attack not in suite]),
                *suite_table(rows, suite),
                *tier_tables(rows),
                findings(rows),
                "\n\n".join(filter(None, [*notes, check_notes(checks)])).rstrip(),
            ],
            checks=[asdict(check) for check in checks],
        )
    )
    if any(row.tier != Tier.CLEAN for row in rows):
        plot_report(out / "report.json", out)
    if warning:
        typer.echo(warning, err=True)
        raise typer.Exit(1)


def _prior_rows(victim: Victim, scenes: Sequence[TrueScene], plan: Plan) -> list[Row]:
    prior = QuestionPrior(training_questions(PRIOR_SCENES, seed=plan.seed))
    return rows_under(
        Threat(tier=Tier.CLEAN, attack="none"),
        prior_measures(prior, scenes),
        defence="none",
        victim=victim.name,
        seeds=plan.seeds,
    )


def _notes(conditions: list[Condition], trials: list[Trial], plan: Plan) -> str:
    """What a reader of the table must know: settings, and how the figures were made."""
    lines = [
        f"Attacks: {plan.attack}, {plan.steps} steps, {plan.restarts} restarts, all against the "
        "undefended model, rounded to whole levels and re-read from PNG. Without a suffix the "
        "cross-entropy of the right caption and answers is moved (of the target caption, where "
        "targeted), with -margin their capped margin, with -encoder the features. Each image is "
        f"attacked once for all its answers; {UNION} counts an answer that any of the untargeted "
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
