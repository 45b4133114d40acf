"""`codefend-lab prompt`: finds a defensive prompt, and compares it with what people write."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from pydantic import Field, NonNegativeInt, PositiveInt

from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.errors import LabError
from codefend.lab.evaluate.context import Goals, ObliviousSettings, VictimExperiment
from codefend.lab.evaluate.data import TrueScene, world_scenes
from codefend.lab.evaluate.uploads import Attacker
from codefend.lab.experiments.report import write_report
from codefend.lab.experiments.store import Store, digest_of, write_atomically
from codefend.lab.prompts.items import CLEAN, FAMILIES, Item, ItemMaker
from codefend.lab.prompts.proposals import Grammar, TokenSearch, WhiteBoxSettings
from codefend.lab.prompts.search import (
    METRICS,
    NOTES,
    Scorer,
    SearchBudget,
    Standing,
    choose,
    compared_rows,
    compared_tables,
    search,
    texts_table,
)
from codefend.lab.prompts.texts import ORACLE, PLAIN, RIVALS, SEEDS, is_oracle, read_texts
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
from codefend.models.prompts.templates import SHIPPED_TEMPLATES, Task

__all__ = ["FindPrompt"]


_INSTRUCTIONS = """A vision-language model gets images from strangers. Some were written on or
altered so that its answer is wrong. Every question is put into this template:

<curr_param>

How the model did with it:

<side_info>

Write a better template, at most {max_words} words beside the question. It must hold {{question}}
exactly once, must not make the model decline what it can answer, and must not change the question.
Write the template alone, between three backticks."""


class SearchAttack(ObliviousSettings):
    """How items are attacked: shortly, because a search needs many."""

    attack: str = "pgd"
    """Name of the attack."""
    goals: Annotated[Goals, Field(max_length=1)] = ("margin",)
    """What it moves."""
    steps: NonNegativeInt = 20
    """Attack steps."""


class FindPrompt(VictimExperiment):
    """Search for a defensive prompt: right under attack, right on clean images, not over-refusing.

    Interrupted, it resumes: every answer is written down, and the search follows from its seed.
    """

    name: ClassVar[str] = "prompt"
    shortcuts: ClassVar = {"upstream.url": "upstream-url", "oblivious.steps": "steps"}

    oblivious: SearchAttack = SearchAttack()
    task: Task = Task.CAPTION
    """Whose template is searched: caption or vqa."""
    victims: tuple[str, ...] = ()
    """Further models that the text must serve too."""
    families: tuple[str, ...] = FAMILIES
    """What items are made of, behind the purifier and without it."""
    purifier: Path = WEIGHTS_DIRECTORY / "purifier"
    """Our purifier."""
    num_train: PositiveInt = 24
    """Training scenes: minibatches are drawn from their items."""
    num_validation: PositiveInt = 24
    """Validation scenes: what is chosen on."""
    num_scenes: PositiveInt = 64
    """Test scenes: what is reported, and never searched on."""
    calls: PositiveInt = 20_000
    """Most calls of the search."""
    minibatch: PositiveInt = 16
    """Items that a new text is tried on first."""
    max_words: PositiveInt = 12
    """Longest text beside the question."""
    tolerance: Annotated[float, Field(ge=0)] = 0.005
    """What may be lost of clean answers, and added to refusals, on validation."""
    upstream: UpstreamSettings = UpstreamSettings()
    white_box: WhiteBoxSettings = WhiteBoxSettings()

    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report and a file of templates."""
        scorer, items, models, weights = self.prepare()
        finding = _Finding(self, scorer, items, models)
        typer.echo(finding.announcement())
        self._write(finding.run(), finding, weights)

    def prepare(self) -> tuple[Scorer, dict[str, list[Item]], list[Victim], dict[str, str]]:
        """Who scores, the items of each split, the local models, and the weights of all.

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
        return Scorer(self._log(models)), items, models, weights

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

    def _write(
        self, found: Mapping[str, Standing], finding: _Finding, weights: Mapping[str, str]
    ) -> None:
        rows = compared_rows(self.task, finding.scorer, finding.items["test"], found)
        best, plain = found["optimised"], found["plain"]
        figures = {
            f"{row.defence} {row.attack} {row.metric}": [
                round(value, 4) for value in (row.value, row.low, row.high)
            ]
            for row in rows
            if row.defence in {"optimised", "plain"} and row.metric in METRICS
        }
        entries = json.loads(SHIPPED_TEMPLATES.read_text(encoding="utf-8"))
        if best.text != plain.text:
            entries[self.task.value] |= {
                "name": f"defensive-{self.task.value}",
                "version": digest_of(best.text)[:8],
                "text": best.text,
                "provenance": {
                    "command": shlex.join(["codefend-lab", *sys.argv[1:]]),
                    "seed": self.oblivious.seed,
                    "figures": figures,
                },
            }
        data = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.out / "templates.json", data.encode())
        meta = self.meta(weights) | {
            "texts": {name: standing.text for name, standing in found.items()},
            "calls": {"announced": finding.announced, "known": len(finding.scorer.log)},
        }
        sections = [texts_table(found), *compared_tables(rows), NOTES]
        typer.echo(write_report(self.out, meta, rows, sections))


@dataclass(slots=True)
class _Finding:
    """One search and what it is compared with."""

    plan: FindPrompt
    scorer: Scorer
    items: Mapping[str, Sequence[Item]]
    models: Sequence[Victim]

    @property
    def announced(self) -> int:
        """Most calls: the search, others on validation, and the compared on test items."""
        validation, test = len(self.items["validation"]), len(self.items["test"])
        others = len(read_texts(RIVALS)) + 2 + (self.plan.white_box.rounds > 0)
        proposals = self.plan.calls // (2 * self.plan.minibatch) * self.plan.upstream.proposes
        return self.plan.calls + proposals + others * validation + 4 * test

    def announcement(self) -> str:
        """Said before the first call."""
        known = len(self.scorer.log)
        return f"at most {self.announced:,} calls; {known:,} answers are known from before"

    def run(self) -> dict[str, Standing]:
        """The template of each name, with its standing on validation."""
        plan, validation = self.plan, self.items["validation"]
        budget = SearchBudget(plan.calls, plan.minibatch)
        texts = search(
            self.scorer,
            self.items["train"],
            validation,
            budget=budget,
            seed=plan.oblivious.seed,
            **self._proposer(),
        )
        if plan.white_box.rounds and not plan.upstream.url:
            texts.append(self._by_gradients(max(map(self._standing, texts), key=_by_attack).text))
        plain = self._standing(PLAIN)
        found = {"plain": plain, "optimised": self._best(texts, plain)}
        found["hand-written"] = self._best(read_texts(RIVALS), plain)
        found["oracle"] = self._standing(ORACLE)
        return found

    def _standing(self, text: str) -> Standing:
        return Standing.of(text, self.scorer, self.items["validation"])

    def _best(self, texts: Sequence[str], plain: Standing) -> Standing:
        own = [text for text in texts if not is_oracle(text)]
        return choose([self._standing(t) for t in own], plain, tolerance=self.plan.tolerance)

    def _proposer(self) -> dict[str, Any]:
        plan = self.plan
        if not plan.upstream.proposes:
            seeds = read_texts(SEEDS)
            return {"proposer": Grammar(seeds, seed=plan.oblivious.seed, max_words=plan.max_words)}
        upstream = self.scorer.log.upstreams.get("upstream")
        if not isinstance(upstream, HttpUpstream):
            raise LabError("--upstream.proposes needs --upstream-url")
        log = self.scorer.log

        def reflect(prompt: Any) -> str:
            key = digest_of("proposal", upstream.identity, prompt)
            return log.once(key, lambda: upstream.complete(str(prompt), 1024, log.meter))

        return {
            "reflection_lm": reflect,
            "instructions": _INSTRUCTIONS.format(max_words=plan.max_words),
        }

    def _by_gradients(self, start: str) -> str:
        plan = self.plan.white_box
        model = self.models[0]
        own = [item for item in self.items["train"] if item.subject == model.name]
        found = TokenSearch(model, own, seed=self.plan.oblivious.seed, settings=plan)
        return found.run(start)


def _by_attack(standing: Standing) -> float:
    return standing.attacked
