"""`codefend-lab prompt`: finds a defensive prompt, and compares it with what people write."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer
from pydantic import Field, PositiveInt

from codefend.lab.errors import LabError
from codefend.lab.experiments.report import write_report
from codefend.lab.experiments.store import digest_of, write_atomically
from codefend.lab.prompts.experiment import Prepared, PromptExperiment
from codefend.lab.prompts.items import Item
from codefend.lab.prompts.proposals import Grammar, TokenSearch, WhiteBoxSettings
from codefend.lab.prompts.search import (
    METRICS,
    NOTES,
    SearchBudget,
    Standing,
    choose,
    compared_rows,
    compared_tables,
    ranked,
    search,
    texts_table,
)
from codefend.lab.prompts.texts import ORACLE, PLAIN, RIVALS, SEEDS, is_oracle, read_texts
from codefend.lab.prompts.upstreams import HttpUpstream
from codefend.models.prompts.templates import SHIPPED_TEMPLATES

__all__ = ["FindPrompt"]


_INSTRUCTIONS = """A vision-language model gets images from strangers. Some were written on or
altered so that its answer is wrong. Every question is put into this template:

<curr_param>

How the model did with it:

<side_info>

Write a better template, at most {max_words} words beside the question. It must hold {{question}}
exactly once, must not make the model decline what it can answer, and must not change the question.
Write the template alone, between three backticks."""


class FindPrompt(PromptExperiment):
    """Search for a defensive prompt: right under attack, right on clean images, not over-refusing.

    Interrupted, it resumes: every answer is written down, and the search follows from its seed.
    """

    name: ClassVar[str] = "prompt"

    num_pareto: PositiveInt = 24
    """Of the validation scenes those that the search itself walks on."""
    finalists: PositiveInt = 8
    """Texts that did best on these: they are compared on all validation scenes."""
    calls: PositiveInt = 20_000
    """Most calls of the search."""
    minibatch: PositiveInt = 16
    """Items that a new text is tried on first."""
    max_words: PositiveInt = 12
    """Longest text beside the question."""
    tolerance: Annotated[float, Field(ge=0)] = 0.005
    """What each model may lose of clean answers, and decline more, on validation."""
    white_box: WhiteBoxSettings = WhiteBoxSettings()

    def run(self) -> None:
        """Makes whatever the folder lacks, and writes the report and a file of templates."""
        finding = _Finding(self, self.prepare())
        typer.echo(finding.announcement())
        self._write(finding.run(), finding)

    def _write(self, found: Mapping[str, Standing], finding: _Finding) -> None:
        known = finding.known
        items = known.items["test"]
        told = {name: known.scorer.verdicts(each.text, items) for name, each in found.items()}
        rows = compared_rows(self.task, items, told, ours="optimised")
        best, plain = found["optimised"], found["plain"]
        figures = {
            f"{row.victim} {row.defence} {row.attack} {row.metric}": [
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
        meta = self.meta(known.weights) | {
            "texts": {name: standing.text for name, standing in found.items()},
            "calls": {"announced": finding.announced, "known": len(known.scorer.log)},
        }
        sections = [texts_table(found), *compared_tables(rows, ours="optimised"), NOTES]
        typer.echo(write_report(self.out, meta, rows, sections))


@dataclass(slots=True)
class _Finding:
    """One search and what it is compared with."""

    plan: FindPrompt
    known: Prepared

    @property
    def announced(self) -> int:
        """Most calls: the search, others and finalists on validation, the compared on test."""
        plan, validation = self.plan, len(self.known.items["validation"])
        proposals = plan.calls // (2 * plan.minibatch) * plan.upstream.proposes
        others = len(read_texts(RIVALS)) + 2 * (plan.white_box.rounds > 0)
        finals = 2 * plan.finalists + 2
        test = 4 * len(self.known.items["test"])
        return plan.calls + proposals + others * len(self._pareto) + finals * validation + test

    @property
    def _pareto(self) -> list[Item]:
        """What the search walks on."""
        validation = self.known.items["validation"]
        return [item for item in validation if item.scene < self.plan.num_pareto]

    def announcement(self) -> str:
        """Said before the first call."""
        known = len(self.known.scorer.log)
        return f"at most {self.announced:,} calls; {known:,} answers are known from before"

    def run(self) -> dict[str, Standing]:
        """The template of each name, with its standing on validation."""
        plan = self.plan
        texts = search(
            self.known.scorer,
            self.known.items["train"],
            self._pareto,
            budget=SearchBudget(plan.calls, plan.minibatch),
            seed=plan.oblivious.seed,
            **self._proposer(),
        )
        if plan.white_box.rounds and not plan.upstream.url:
            texts.append(self._by_gradients(self._ranked(texts)[0].text))
        return {
            "plain": self._standing(PLAIN),
            "optimised": self._best(texts),
            "hand-written": self._best(read_texts(RIVALS)),
            "oracle": self._standing(ORACLE),
        }

    def _standing(self, text: str) -> Standing:
        return Standing.of(text, self.known.scorer, self.known.items["validation"])

    def _ranked(self, texts: Sequence[str]) -> list[Standing]:
        """The best on the search's own scenes first."""
        scorer, pareto = self.known.scorer, self._pareto
        own = [Standing.of(text, scorer, pareto) for text in texts if not is_oracle(text)]
        plain = Standing.of(PLAIN, scorer, pareto)
        return ranked(own, plain, tolerance=self.plan.tolerance)

    def _best(self, texts: Sequence[str]) -> Standing:
        """Of the finalists, on all validation scenes; the plain question where none is better."""
        finalists = [self._standing(s.text) for s in self._ranked(texts)[: self.plan.finalists]]
        plain = self._standing(PLAIN)
        return choose(finalists, plain, tolerance=self.plan.tolerance)

    def _proposer(self) -> dict[str, Any]:
        plan, log = self.plan, self.known.scorer.log
        if not plan.upstream.proposes:
            seeds = read_texts(SEEDS)
            return {"proposer": Grammar(seeds, seed=plan.oblivious.seed, max_words=plan.max_words)}
        upstream = log.upstreams.get("upstream")
        if not isinstance(upstream, HttpUpstream):
            raise LabError("--upstream.proposes needs --upstream-url")

        def reflect(prompt: Any) -> str:
            key = digest_of("proposal", upstream.identity, prompt)
            return log.once(key, lambda: upstream.complete(str(prompt), 1024, log.meter))

        return {
            "reflection_lm": reflect,
            "instructions": _INSTRUCTIONS.format(max_words=plan.max_words),
        }

    def _by_gradients(self, start: str) -> str:
        plan = self.plan.white_box
        model = self.known.models[0]
        own = [item for item in self.known.items["train"] if item.subject == model.name]
        found = TokenSearch(model, own, seed=self.plan.oblivious.seed, settings=plan)
        return found.run(start)
