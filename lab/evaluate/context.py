"""What an evaluation is told and what all of it shares: settings, victim, scenes, conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import AfterValidator, Field

from codefend.lab.attacks.adaptive import surrogate_forward
from codefend.lab.attacks.interface import Tier
from codefend.lab.attacks.registry import AttackConfig, Goal
from codefend.lab.baselines.defence import Forward
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.evaluate.data import TrueScene
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.experiments.report import provenance
from codefend.lab.experiments.settings import Experiment, RunSettings
from codefend.lab.victims.victim import Victim, load_victim
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = [
    "CPU",
    "GPU",
    "EvalContext",
    "ObliviousSettings",
    "Surrogate",
    "TierSettings",
    "VictimExperiment",
    "found_device",
]


Precision = Literal["float32", "bfloat16"]
"""In which a model multiplies under attack; scores are always in single precision."""


def found_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _in_order(*known: str) -> AfterValidator:
    """Names in the order of their definition, whatever the order in which they were given."""
    return AfterValidator(lambda names: tuple(name for name in known if name in names))


Goals = Annotated[tuple[Goal, ...], _in_order(*get_args(Goal))]
AnswerGoal = Literal["language", "margin"]
AnswerGoals = Annotated[tuple[AnswerGoal, ...], _in_order("language", "margin")]
GradientName = Literal["exact", "bpda", "surrogate"]
Gradients = Annotated[tuple[GradientName, ...], _in_order("exact", "bpda", "surrogate")]
Positive = Annotated[int, Field(ge=1)]


class ObliviousSettings(RunSettings):
    """T0: the attacker who does not know of a defence; search and seeds hold for all tiers."""

    attack: str = "apgd"
    """Name of the attack."""
    goals: Goals = ("language", "margin")
    """What the untargeted attacks move: all of it at the main radius, the first at the others."""
    steps: int = Field(100, ge=0)
    """Attack steps."""
    restarts: Positive = 1
    """Attack restarts."""
    epsilon: Positive = 8
    """The radius tried on all scenes, in levels of 255."""
    epsilons: tuple[Positive, ...] = (4, 8, 16)
    """All radii."""
    num_scenes_targeted: int = Field(256, ge=0)
    """Scenes also attacked towards another scene's caption."""
    num_scenes_other: int = Field(128, ge=0)
    """Scenes at other radii."""
    seeds: Positive = 3
    """Seeds of the defence's noise."""
    seed: int = 0
    """Of scenes, targets and random starts."""
    batch_size: Positive = 32
    """Scenes attacked at once: fewer where the model is large. Each batch has its own seed."""
    batch_size_asked: Positive = 256
    """Prompts asked at once, in every tier."""

    @property
    def main_attack(self) -> AttackConfig:
        """The first untargeted attack at the main radius: settings are chosen under it."""
        return self.config(self.epsilon, self.goals[0])

    def config(self, epsilon: int, goal: Goal, *, targeted: bool = False) -> AttackConfig:
        """The attack at a radius in levels of 255."""
        return AttackConfig(
            name=self.attack,
            epsilon=epsilon / 255,
            steps=self.steps,
            restarts=self.restarts,
            goal=goal,
            targeted=targeted,
            seed=self.seed,
        )


_NUM_SCENES = {Tier.TRANSFER: 256, Tier.WHITE_BOX: 256, Tier.RESUBMISSION: 256, Tier.QUERY: 64}


class TierSettings(RunSettings):
    """The attack suite and the tiers beyond T0; radius, search and seeds are those of T0."""

    num_scenes: Mapping[Tier, Positive] = Field(_NUM_SCENES)
    """Scenes by tier, the first of the tested ones, such as t1=64,t2=32."""
    num_scenes_diffpure: Positive = 64
    """Scenes of T2 that are also attacked through DiffPure: it is slow."""
    num_scenes_curve: Positive = 64
    """Scenes of T2's step curve."""
    num_scenes_families: Positive = 128
    """Scenes of the suite."""
    goals: AnswerGoals = ("margin",)
    """What T1 and T2 move."""
    steps: Positive = 100
    """Steps of T1 and T2."""
    num_draws_transfer: Positive = 10
    """Draws of the surrogate's noise averaged at every step of T1."""
    num_draws: Positive = 16
    """Draws of a defence's noise averaged at every step of T2."""
    num_draws_network: Positive = 16
    """Likewise through a defence that is a network, whose every draw costs."""
    num_draws_curve: Positive = 16
    """Likewise for the step curve."""
    draws_at_once: Positive = 1
    """How many of T2's draws are one batch, at most."""
    gradients: Gradients = ("exact", "bpda", "surrogate")
    """Ways through a defence that draws noise; others are attacked in every way that they have."""
    num_focused: int = Field(2, ge=0)
    """Further rounds of T2, each at the answers that all before left standing."""
    num_focused_still: int = Field(4, ge=0)
    """Likewise through a defence that draws no noise."""
    curve_steps: tuple[Positive, ...] = (50, 100, 200, 400)
    """Steps of T2's curve."""
    num_repeats: Positive = 10
    """How often T3 sends each upload."""
    num_queries: tuple[Positive, ...] = (1_000, 10_000)
    """T4's budgets for each image, in HTTP requests."""
    batch_size: Positive = 8
    """Images attacked at once; what an interruption loses."""
    batch_size_queried: Positive = 4
    """Likewise for T4."""
    purifier_dtype: Precision = "float32"
    """Of purifiers under attack (T1, T2)."""

    @property
    def autocast(self) -> str:
        """The torch dtype that purifiers multiply in; empty where they need no autocast."""
        return "" if self.purifier_dtype == "float32" else self.purifier_dtype

    def num_through(self, condition: str) -> int:
        """How many scenes T2 attacks through a condition's defence."""
        num = self.num_scenes[Tier.WHITE_BOX]
        return min(num, self.num_scenes_diffpure) if condition == "diffpure" else num


CPU: Mapping[str, Any] = {
    "num_scenes": {Tier.TRANSFER: 64, Tier.WHITE_BOX: 32, Tier.RESUBMISSION: 64, Tier.QUERY: 16},
    "num_scenes_diffpure": 8,
    "num_scenes_curve": 4,
    "num_scenes_families": 32,
    "steps": 50,
    "num_draws_transfer": 5,
    "num_draws_network": 8,
    "num_draws_curve": 4,
    "gradients": ("exact", "bpda"),
    "num_queries": (1_000,),
}
"""How much of the tiers two cores can run."""
GPU: Mapping[str, Any] = {
    "num_scenes": _NUM_SCENES,
    "goals": ("language", "margin"),
    "draws_at_once": 16,
    "batch_size": 64,
    "batch_size_queried": 16,
}
"""How much one GPU can."""


class VictimExperiment(Experiment):
    """What experiments on a multimodal model have in common."""

    shortcuts: ClassVar = {
        "oblivious.attack": "attack",
        "oblivious.goals": "goals",
        "oblivious.steps": "steps",
        "oblivious.restarts": "restarts",
        "oblivious.epsilon": "main-epsilon",
        "oblivious.epsilons": "epsilons",
        "oblivious.num_scenes_targeted": "num-scenes-targeted",
        "oblivious.num_scenes_other": "num-scenes-other",
        "oblivious.seeds": "seeds",
        "oblivious.seed": "seed",
    }

    world: Path = Path("work/world.npz")
    """World file of `data build`."""
    victim: str = str(WEIGHTS_DIRECTORY / "mllm")
    """Model directory or hub id."""
    oblivious: ObliviousSettings = ObliviousSettings()
    attack_dtype: Precision = "float32"
    """Precision of the gradients."""
    device: str = Field(default_factory=found_device)
    """Torch device."""
    split: Literal["validation", "test"] = "test"
    """Which scenes: test ones for reports, validation ones for decisions."""

    def load(self, source: str) -> tuple[Victim, Victim]:
        """A model to be asked, and its copy in the precision of the gradients."""
        model = load_victim(source, device=self.device)
        return model, model.astype(getattr(torch, self.attack_dtype))

    def meta(self, weights: Mapping[str, str], data: str = "") -> dict[str, Any]:
        """The report's `meta`."""
        return provenance(
            seed=self.oblivious.seed,
            weights=weights,
            device=self.device,
            data=data,
            settings=self,
        )


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The purifier of T1's attacker.

    Attributes:
        setting: weights and noise levels, enough to tell results apart.
        forward: the way through it.
    """

    setting: str
    forward: Forward

    @classmethod
    def load(
        cls, directory: Path, device: str, largest_noise_level: float | None = None
    ) -> tuple[Surrogate, str]:
        """The attacker's purifier, and the hash of its weights.

        Args:
            directory: of the pipeline.
            device: torch device.
            largest_noise_level: up to which its noise is drawn; the pipeline's own level if None.

        Raises:
            LabError: where the directory holds no pipeline.
        """
        pipeline, sha256 = load_purifier(directory, device=device)
        largest = largest_noise_level or pipeline.config.noise_level
        setting = f"largest_noise_level={largest:g} weights={sha256[:12]}"
        return cls(setting, surrogate_forward(pipeline, largest_noise_level=largest)), sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalContext:
    """One evaluation.

    Attributes:
        victim: who is asked.
        attacker: whose gradients are used: the victim, or its copy in another precision.
        scenes: test scenes; captions of all are CIDEr's references.
        conditions: `none` first.
        oblivious: T0, whose radius, search, restarts and seeds hold for all tiers.
        tiers: everything else.
        out: folder of attacked images and outcomes.
        surrogate: what T1 attacks through; nobody does where None.
        others: further models of the ensemble's attacker.
    """

    victim: Victim
    attacker: Victim
    scenes: Sequence[TrueScene]
    conditions: Sequence[Condition]
    oblivious: ObliviousSettings
    tiers: TierSettings
    out: Path
    surrogate: Surrogate | None = None
    others: Sequence[Victim] = ()

    def __post_init__(self) -> None:
        """Refuses conditions that cannot be compared with the undefended model."""
        if not self.conditions or self.conditions[0].name != "none":
            raise ValueError("the first condition must be the undefended one, named none")

    def num(self, tier: Tier) -> int:
        """How many scenes a tier attacks."""
        return min(self.tiers.num_scenes[tier], len(self.scenes))

    def num_through(self, condition: Condition) -> int:
        """How many scenes are attacked through a condition's defence."""
        return min(self.tiers.num_through(condition.name), len(self.scenes))
