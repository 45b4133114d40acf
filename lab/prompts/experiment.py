"""What finding a prompt, by search or by training, is told, and what it sets up alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.errors import LabError
from codefend.lab.evaluate.context import Goals, ObliviousSettings, VictimExperiment
from codefend.lab.evaluate.data import TrueScene, world_scenes
from codefend.lab.evaluate.uploads import Attacker
from codefend.lab.experiments.store import Store
from codefend.lab.prompts.items import CLEAN, FAMILIES, Item, ItemMaker
from codefend.lab.prompts.search import Scorer
from codefend.lab.prompts.upstreams import (
    AnswerLog,
    AskedModel,
    HttpUpstream,
    LocalUpstream,
    Meter,
    UpstreamSettings,
)
from codefend.lab.service_client import ServiceClient
from codefend.lab.victims.victim import Victim
from codefend.lab.world.compose import World
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.prompts.templates import Task

__all__ = ["Prepared", "PromptExperiment"]


class SearchAttack(ObliviousSettings):
    """How items are attacked: shortly, because a search needs many."""

    attack: str = "pgd"
    """Name of the attack."""
    goals: Annotated[Goals, Field(max_length=1)] = ("margin",)
    """What it moves."""
    steps: NonNegativeInt = 20
    """Attack steps."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that prompts are tried on.

    Attributes:
        scorer: asks, and judges what is answered.
        items: of each split: `train`, `validation` and `test`.
        models: the local ones, the first that of `victim`.
        weights: hash of each model's, and of the purifier's.
    """

    scorer: Scorer
    items: Mapping[str, Sequence[Item]]
    models: Sequence[Victim]
    weights: Mapping[str, str]


class PromptExperiment(VictimExperiment):
    """Prompts are tried on items: attacked, written-on and clean images, purified and not."""

    shortcuts: ClassVar = {"upstream.url": "upstream-url", "oblivious.steps": "steps"}

    oblivious: SearchAttack = SearchAttack()
    task: Task = Task.CAPTION
    """What is asked for: caption or vqa."""
    victims: tuple[str, ...] = ()
    """Further models that the prompt must serve too."""
    families: tuple[str, ...] = FAMILIES
    """What items are made of, behind the purifier and without it."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """Our purifier."""
    num_train: PositiveInt = 24
    """Training scenes: what is learned on."""
    num_validation: PositiveInt = 24
    """Validation scenes: what is chosen on."""
    num_scenes: PositiveInt = 64
    """Test scenes: what is reported, and never learned on."""
    upstream: UpstreamSettings = UpstreamSettings()

    def prepare(self) -> Prepared:
        """Loads models and purifier, and makes whatever items the folder lacks.

        Raises:
            LabError: where there is nothing to be asked.
        """
        if self.task is Task.CHAT:
            raise LabError("--task is caption or vqa: chats have no items of their own")
        if set(self.families) - set(FAMILIES) or not {CLEAN} < set(self.families):
            known = ", ".join(FAMILIES)
            raise LabError(f"--families takes clean and at least one other of {known}")
        models = [self.load(source)[0] for source in (self.victim, *self.victims)]
        pipeline, sha256 = load_purifier(self.purifier, device=self.device)
        items = self._items(models, purifying("purifier", pipeline, sha256))
        weights = {model.name: model.sha256 for model in models} | {"purifier": sha256}
        return Prepared(Scorer(self._log(models)), items, models, weights)

    def _items(self, models: Sequence[Victim], purifier: Defence) -> dict[str, list[Item]]:
        """Of each split; over HTTP the first local model's attacks are what the upstream sees."""
        world, store = World(self.world), Store(self.out / "attacked")
        subjects = {"upstream": models[0]} if self.upstream.url else {m.name: m for m in models}
        makers = [
            ItemMaker(subject, Attacker(model, store), purifier, self.oblivious)
            for subject, model in subjects.items()
        ]
        return {
            split: [i for make in makers for i in make(self.task, self.families, scenes)]
            for split, scenes in self._scenes(world).items()
        }

    def _scenes(self, world: World) -> dict[str, Sequence[TrueScene]]:
        """Each split has scenes, photos, pairs of objects and a seed of its own."""
        seed = self.oblivious.seed
        return {
            "train": world_scenes(world, "train", self.num_train, seed=seed + 2),
            "validation": world_scenes(world, "validation", self.num_validation, seed=seed + 1),
            "test": world_scenes(world, "test", self.num_scenes, seed=seed),
        }

    def _log(self, models: Sequence[Victim]) -> AnswerLog:
        upstreams: Mapping[str, AskedModel] = {m.name: LocalUpstream(m) for m in models}
        asked = self.upstream
        if asked.url:
            client = ServiceClient.connect(asked.url, key=asked.key.get_secret_value())
            upstreams = {"upstream": HttpUpstream(client, asked.model, asked.concurrency)}
        meter = Meter(price_in=asked.price_in, price_out=asked.price_out)
        return AnswerLog(self.out / "answers.jsonl", upstreams, meter)
