"""`codefend-lab evaluate`: one table of what withstands what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import typer
from pydantic import Field, SecretStr, field_validator

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.filters import gaussian_noise
from codefend.lab.errors import LabError
from codefend.lab.evaluate.checks import CONTROLS, banner, check_report
from codefend.lab.evaluate.conditions import (
    CONDITIONS,
    USUAL_CONDITIONS,
    DefenceFactory,
    SettingChooser,
    distinct,
)
from codefend.lab.evaluate.context import (
    CPU,
    GPU,
    EvalContext,
    Surrogate,
    TierSettings,
    VictimExperiment,
)
from codefend.lab.evaluate.data import (
    Material,
    TrueScene,
    folder_material,
    public_material,
    training_questions,
    world_material,
)
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.pictures import draw_examples
from codefend.lab.evaluate.scores import QuestionPrior, prior_measures
from codefend.lab.evaluate.suite import labels_of, variants_named
from codefend.lab.evaluate.tables import (
    check_notes,
    findings,
    kept_table,
    oblivious_notes,
    oblivious_table,
    suite_table,
    tier_notes,
    tier_tables,
)
from codefend.lab.evaluate.tiers import oblivious_rows, tier_rows
from codefend.lab.experiments.report import Row, Threat, rows_under, write_report
from codefend.lab.folders.public import is_public, open_public
from codefend.lab.folders.source import open_data
from codefend.lab.plots.report import plot_report
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.victim import Victim
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = ["CONTROL_NOISE", "Evaluate"]

PRIOR_SCENES = 20_000
CONTROL_NOISE = 0.08  # as much as the shipped purifier adds, without its network


def _service_key() -> SecretStr:
    return SecretStr(os.environ.get("CODEFEND_LAB_SERVICE_KEY", ""))


class Evaluate(VictimExperiment):
    """Attack, defend and question the victim; save tables as JSON and Markdown, print the latter.

    Interrupted, it resumes: attacked images and answers are kept in the folder of the report.
    Where a check of the report fails, everything is written all the same, under a banner, and the
    command ends with 1.
    """

    name = "evaluate"
    presets: ClassVar = {"cpu": {"adaptive": CPU}, "gpu": {"adaptive": GPU}}
    shortcuts: ClassVar = VictimExperiment.shortcuts | {
        "tiers": "tier",
        "preset": "budget",
        "adaptive.num_scenes": "tier-scenes",
        "adaptive.num_scenes_curve": "curve-scenes",
        "adaptive.num_scenes_families": "family-scenes",
        "adaptive.goals": "tier-goals",
        "adaptive.steps": "tier-steps",
        "adaptive.num_draws": "eot",
        "adaptive.num_draws_network": "eot",
        "adaptive.gradients": "gradients",
        "adaptive.curve_steps": "curve-steps",
        "adaptive.num_queries": "queries",
        "adaptive.purifier_dtype": "purifier-dtype",
        "services": "defence-url",
        "tune_purifier": "defence-grid",
    }

    tiers: tuple[Tier, ...] = (Tier.OBLIVIOUS,)
    """What the attackers have: all, or names such as t0,t1."""
    preset: Literal["cpu", "gpu"] = "cpu"
    """How much of T1 to T4 is run where nothing else is said."""
    data: str = ""
    """Folder of images, or an id of the datasets package, instead of the embedded world. Without a
    scenes.json in it, the victim's own answers to clean images are the truth. Or a public test set
    in its official files: coco:DIR, vqav2:DIR or textvqa:DIR."""
    size_px: int = Field(224, ge=1)
    """With data: side that images are cut and scaled to."""
    num_scenes: int = Field(512, ge=1)
    """Scenes, clean and at the main radius."""
    num_validation: int = Field(64, ge=1)
    """Scenes that settings are chosen on."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """Our purifier."""
    base: Path = WEIGHTS_DIRECTORY / "base"
    """DiffPure's network, before fine-tuning."""
    surrogate: Path = WEIGHTS_DIRECTORY / "base"
    """The purifier of T1's attacker."""
    surrogate_noise_level: float | None = Field(None, gt=0, le=1)
    """T1's largest; the surrogate's own where none is given."""
    surrogate_models: tuple[str, ...] = (str(WEIGHTS_DIRECTORY / "surrogate"),)
    """MLLMs of the ensemble's attacker."""
    defences: tuple[str, ...] = USUAL_CONDITIONS
    """Names of conditions."""
    tune_purifier: bool = False
    """Choose our noise level on validation, too."""
    families: tuple[str, ...] = ("all",)
    """Attacks of the suite that T0 runs too: all, none, or their names."""
    services: tuple[str, ...] = ()
    """URLs of running services for T4: one that discloses all, and one as little as it can."""
    service_key: SecretStr = Field(default_factory=_service_key, exclude=True)
    """API key of those services; also as CODEFEND_LAB_SERVICE_KEY."""
    adaptive: TierSettings = TierSettings()

    @field_validator("tiers", mode="before")
    @classmethod
    def _all_tiers(cls, names: Any) -> Any:
        if list(names) == ["all"]:
            return tuple(tier for tier in Tier if tier is not Tier.CLEAN)
        return sorted(set(names))

    @field_validator("surrogate_models", "services")
    @classmethod
    def _without_empty(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name)

    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report."""
        services = self._connect()
        asked, attacker = self.load(self.victim)
        material = self._material(asked)
        chooser = SettingChooser(
            asked,
            material.validation,
            self.oblivious.main_attack,
            self.out,
            attacker=attacker,
            batch_size=self.oblivious.batch_size,
            batch_size_asked=self.oblivious.batch_size_asked,
        )
        factory = DefenceFactory(self.purifier, self.base, self.device)
        wanted = factory.conditions(self._names(), chooser, tune_purifier=self.tune_purifier)
        conditions, twins = distinct(wanted)
        surrogate, sha256 = Surrogate.load(self.surrogate, self.device, self.surrogate_noise_level)
        variants = variants_named(self.families) if Tier.OBLIVIOUS in self.tiers else ()
        context = EvalContext(
            victim=asked,
            attacker=attacker,
            scenes=material.tested,
            conditions=conditions,
            oblivious=self.oblivious,
            tiers=self.adaptive,
            surrogate=surrogate,
            out=self.out,
        )
        rows: list[Row] = []
        notes = [material.note, oblivious_notes(context, factory.trials), *twins]
        is_attacked = Tier.OBLIVIOUS in self.tiers
        if is_attacked or Tier.CLEAN in self.tiers:
            rows += oblivious_rows(context, is_attacked=is_attacked)
        if variants or set(self.tiers) - {Tier.CLEAN, Tier.OBLIVIOUS}:
            noise = Condition("noise", gaussian_noise(CONTROL_NOISE))
            others = [self.load(source)[1] for source in self.surrogate_models]
            context = replace(context, conditions=[*conditions, noise], others=others)
            rows += tier_rows(context, self.tiers, services, variants=variants)
            notes.append(tier_notes(context, self.tiers, num_services=len(services)))
        if not self.data:
            rows += self._prior_rows(asked, material.tested)
        weights = {asked.name: asked.sha256, **factory.weights, "surrogate": sha256}
        draw_examples(context, self.tiers, self.out / "examples.webp")
        self._finish(weights, material.note, rows, notes, labels_of(variants))

    def _connect(self) -> list[ServiceClient]:
        """Clients of the services; says at once, not after hours, where T4 will be missing."""
        if Tier.QUERY not in self.tiers or self.services:
            key = self.service_key.get_secret_value()
            return [ServiceClient.connect(url, key=key) for url in self.services]
        hint = "T4 needs --defence-url: start `codefend serve`, once for each disclosure setting"
        if set(self.tiers) == {Tier.QUERY}:
            raise LabError(hint)
        typer.echo(f"codefend-lab: {hint}; the report's checks will fail without it", err=True)
        return []

    def _material(self, victim: Victim) -> Material:
        numbers = {"num": self.num_scenes, "num_validation": self.num_validation}
        if is_public(self.data):
            return public_material(open_public(self.data), self.split, self.size_px, **numbers)
        if self.data:
            images = open_data(self.data, self.size_px)
            return folder_material(images, victim, self.split, out=self.out, **numbers)
        return world_material(self.world, self.split, seed=self.oblivious.seed, **numbers)

    def _names(self) -> list[str]:
        """White-box figures come with the controls that the same attacker must break."""
        controls = [name for name in CONTROLS if name in CONDITIONS and name not in self.defences]
        return [*self.defences, *(controls if Tier.WHITE_BOX in self.tiers else ())]

    def _prior_rows(self, victim: Victim, scenes: Sequence[TrueScene]) -> list[Row]:
        prior = QuestionPrior(training_questions(PRIOR_SCENES, seed=self.oblivious.seed))
        return rows_under(
            Threat(tier=Tier.CLEAN, attack="none"),
            prior_measures(prior, scenes),
            defence="none",
            victim=victim.name,
            seeds=self.oblivious.seeds,
        )

    def _finish(
        self,
        weights: dict[str, str],
        data: str,
        rows: Sequence[Row],
        notes: Sequence[str],
        suite: set[str],
    ) -> None:
        """Writes everything; then ends with 1 where a check failed."""
        checks = check_report(rows, self.tiers)
        warning = banner(checks)
        meta = self.meta(weights, data)
        sections = [
            warning,
            oblivious_table(row for row in rows if row.attack not in suite),
            suite_table(rows, suite),
            kept_table(rows) if is_public(self.data) else "",
            *tier_tables(rows),
            findings(rows),
            *notes,
            check_notes(checks),
        ]
        typer.echo(
            write_report(self.out, meta, rows, sections, checks=[asdict(check) for check in checks])
        )
        if any(row.tier != Tier.CLEAN and row.task == "vqa" for row in rows):
            plot_report(self.out / "report.json", self.out)
        if warning:
            typer.echo(warning, err=True)
            raise typer.Exit(1)
