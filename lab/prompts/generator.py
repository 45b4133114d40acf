"""`codefend-lab prompt-generator`: a small language model learns to write prefixes to questions.

The paper's own way: a LoRA-tuned generator of prefixes. It samples prefixes, has them scored by the
objectives of the search, and is tuned on the winners, round by round (rejection sampling: Dong et
al. 2023, "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import ClassVar

import numpy as np
import torch
import typer
from peft import LoraConfig, get_peft_model
from pydantic import Field, PositiveInt
from transformers import AutoModelForCausalLM, AutoTokenizer

from codefend.lab.attacks.interface import Tier
from codefend.lab.errors import LabError
from codefend.lab.experiments.report import Row, Threat, rows_under, write_report
from codefend.lab.experiments.statistics import Estimate
from codefend.lab.experiments.table import Table
from codefend.lab.progress import progress
from codefend.lab.prompts.experiment import Prepared, PromptExperiment
from codefend.lab.prompts.items import Item
from codefend.lab.prompts.search import Scorer, compared_rows, compared_tables
from codefend.lab.prompts.texts import PLAIN, is_oracle
from codefend.lab.victims.dialogue import CAPTION_REQUEST
from codefend.models.prompts.generator import PrefixGenerator
from codefend.models.prompts.templates import PLACEHOLDER, SHIPPED_TEMPLATES, Task, read_templates

__all__ = ["TrainGenerator", "prefix_loss", "sampled", "untuned"]

_RANK, _ALPHA = 16, 32
_IGNORED = -100
_BATCH_SIZE = 16  # questions
_SERVED_BATCH, _TIMED = 8, 5
_UNATTACKED = Threat(tier=Tier.CLEAN, attack="none")
_NOTES = (
    "*right*, *misled*, *declined*: as in the search's reports. `generator` writes a prefix to "
    "each question, greedily, `template` is the same text for all. Times are medians of five on "
    "this device, with 5th and 95th percentiles; memory is that of the weights as the service "
    "holds them. Brackets are 95 % intervals; leads are paired, by a bootstrap over scenes."
)


def untuned(source: str, *, max_new_tokens: int) -> PrefixGenerator:
    """A base with fresh adapters on its attention.

    Args:
        source: directory or hub id of a causal language model.
        max_new_tokens: of the longest prefix.

    Raises:
        LabError: where there is no such model.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except OSError as error:
        raise LabError(f"no language model in {source}: {error}") from error
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapters = LoraConfig(r=_RANK, lora_alpha=_ALPHA, target_modules=targets)
    return PrefixGenerator(
        get_peft_model(model, adapters),
        tokenizer,
        name="generator",
        version="1",
        max_new_tokens=max_new_tokens,
    )


def sampled(
    generator: PrefixGenerator, questions: Sequence[str], *, num: int, seed: int
) -> list[list[str]]:
    """Several prefixes for each question, without what cannot be used."""
    generator.model.eval()
    rows: list[list[str]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for own in _chunks(questions):
            written = generator.write(own, do_sample=True, num_return_sequences=num)
            rows += [[t for t in written[i * num :][:num] if t] for i in range(len(own))]
    return rows


def prefix_loss(generator: PrefixGenerator, question: str, prefix: str) -> torch.Tensor:
    """Cross-entropy of a prefix, its end included, after a question."""
    tokenizer = generator.tokenizer
    asked = generator.encode([question])["input_ids"][0].tolist()
    told = tokenizer(prefix, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    labels = torch.tensor([[_IGNORED] * len(asked) + told])
    loss: torch.Tensor = generator.model(input_ids=torch.tensor([asked + told]), labels=labels).loss
    return loss


class TrainGenerator(PromptExperiment):
    """Tune a generator of prefixes on those of its own that helped, and compare it with a template.

    The adapters of the round that did best on validation are the result. Interrupted, it starts
    again, but asks nothing twice.
    """

    name: ClassVar[str] = "prompt-generator"

    task: Task = Task.VQA
    """What is asked for: vqa, or caption, of which there is one question alone."""
    templates: Path = SHIPPED_TEMPLATES
    """File of the template that it is compared with."""
    language_model: str = "work/language-model"
    """Causal language model: a folder, as of `data language-model`, or a hub id."""
    rounds: PositiveInt = 3
    """Rounds of sampling and tuning."""
    num_samples: PositiveInt = 4
    """Prefixes sampled for each question in a round."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of the tuning."""
    max_new_tokens: PositiveInt = 24
    """Of the longest prefix."""

    @property
    def adapters(self) -> Path:
        """Where they are written."""
        return self.out / "adapters"

    def run(self) -> None:
        """Tunes, writes the adapters to `OUT/adapters`, and the report."""
        generator = untuned(self.language_model, max_new_tokens=self.max_new_tokens)
        known = self.prepare()
        history = self._tuned(generator, known)
        written = PrefixGenerator.load(self.adapters, self.language_model)
        items = known.items["test"]
        template = read_templates(self.templates)[self.task]
        prefixes = _likeliest(written, items)
        texts = [f"{prefix} {PLACEHOLDER}".strip() for prefix in prefixes]
        told = {
            "plain": known.scorer.verdicts(PLAIN, items),
            "template": known.scorer.verdicts(template.text, items),
            "generator": known.scorer.judged(list(zip(texts, items, strict=True))),
        }
        rows = compared_rows(self.task, items, told, ours="generator")
        cost = _cost_rows(written, items, self.task)
        meta = self.meta(known.weights) | {
            "texts": {"template": template.text},
            "prefixes": dict(zip(map(_question, items), prefixes, strict=True)),
        }
        sections = [
            Table(["", "winners", "validation, right"], history).markdown(),
            _cost_table(cost),
            *compared_tables(rows, ours="generator"),
            _NOTES,
        ]
        typer.echo(write_report(self.out, meta, [*rows, *cost], sections))

    def _tuned(self, generator: PrefixGenerator, known: Prepared) -> list[list[str]]:
        """Saves the adapters of the best round; returns the lines of a table of all."""
        scorer, validation = known.scorer, known.items["validation"]
        optimizer = torch.optim.AdamW(
            (p for p in generator.model.parameters() if p.requires_grad), lr=self.learning_rate
        )
        plain = _mean_score(scorer, validation, [""] * len(validation))
        untrained = _mean_score(scorer, validation, _likeliest(generator, validation))
        history = [["plain question", "", f"{plain:.1%}"], ["untuned", "", f"{untrained:.1%}"]]
        best = -1.0
        for number in range(self.rounds):
            winners = _winners(generator, scorer, known.items["train"], self.num_samples, number)
            _tune(generator, optimizer, winners)
            score = _mean_score(scorer, validation, _likeliest(generator, validation))
            history.append([f"round {number + 1}", str(len(winners)), f"{score:.1%}"])
            typer.echo(" ".join(history[-1]))
            if score > best:
                best = score
                generator.save(self.adapters)
        return history


def _question(item: Item) -> str:
    return item.question or CAPTION_REQUEST


def _likeliest(generator: PrefixGenerator, items: Sequence[Item]) -> list[str]:
    questions = list(dict.fromkeys(map(_question, items)))
    generator.model.eval()
    prefix: dict[str, str] = {}
    for own in _chunks(questions):
        written = generator.write(own)
        prefix |= {question: text or "" for question, text in zip(own, written, strict=True)}
    return [prefix[_question(item)] for item in items]


def _chunks(questions: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(questions), _BATCH_SIZE):
        yield questions[start : start + _BATCH_SIZE]


def _scores(scorer: Scorer, items: Sequence[Item], prefixes: Sequence[str]) -> list[float]:
    """Of each item under its prefix; an oracle counts nothing and is not asked."""
    texts = [f"{prefix} {PLACEHOLDER}".strip() for prefix in prefixes]
    own = [number for number, text in enumerate(texts) if not is_oracle(text)]
    judged = scorer.judged([(texts[number], items[number]) for number in own])
    found = [0.0] * len(items)
    for number, judgement in zip(own, judged, strict=True):
        found[number] = judgement.score
    return found


def _mean_score(scorer: Scorer, items: Sequence[Item], prefixes: Sequence[str]) -> float:
    return sum(_scores(scorer, items, prefixes)) / len(items)


def _winners(
    generator: PrefixGenerator, scorer: Scorer, items: Sequence[Item], num: int, number: int
) -> list[tuple[str, str]]:
    """Questions with prefixes that did better on their items than the question alone."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(_question(item), []).append(item)
    written = sampled(generator, list(groups), num=num, seed=number)
    tried = [
        (question, prefix)
        for question, prefixes in zip(groups, written, strict=True)
        for prefix in ("", *dict.fromkeys(prefixes))
    ]
    asked = [(item, prefix) for question, prefix in tried for item in groups[question]]
    scores = iter(_scores(scorer, [i for i, _ in asked], [prefix for _, prefix in asked]))
    total = {pair: sum(islice(scores, len(groups[pair[0]]))) for pair in tried}
    return [pair for pair in tried if total[pair] > total[pair[0], ""]]


def _tune(
    generator: PrefixGenerator, optimizer: torch.optim.Optimizer, winners: Sequence[tuple[str, str]]
) -> None:
    generator.model.train()
    for question, prefix in progress(winners, desc="tuning"):
        loss = prefix_loss(generator, question, prefix)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def _cost_rows(generator: PrefixGenerator, items: Sequence[Item], task: Task) -> list[Row]:
    """Time of one prefix, alone and in a batch as the service writes them, and of the weights."""
    questions = list(dict.fromkeys(map(_question, items)))
    rows: list[Row] = []
    for size in (1, _SERVED_BATCH):
        spent_ms = []
        for start in range(_TIMED):
            own = [questions[(start * size + n) % len(questions)] for n in range(size)]
            began = perf_counter()
            generator.write(own)
            spent_ms.append(1000 * (perf_counter() - began))
        low, middle, high = np.quantile(spent_ms, (0.05, 0.5, 0.95)).tolist()
        measure = (task.value, f"added_ms@{size}", Estimate(middle, low, high, _TIMED))
        rows += rows_under(_UNATTACKED, [measure], defence="generator", victim="", seeds=1)
    num_bytes = sum(p.numel() * p.element_size() for p in generator.model.parameters())
    weight = Estimate(num_bytes / 2**20, num_bytes / 2**20, num_bytes / 2**20, 1)
    measure = (task.value, "memory_mib", weight)
    return rows + rows_under(_UNATTACKED, [measure], defence="generator", victim="", seeds=1)


def _cost_table(rows: Sequence[Row]) -> str:
    by_metric = {row.metric: row for row in rows}
    alone, batch = by_metric["added_ms@1"], by_metric[f"added_ms@{_SERVED_BATCH}"]
    heads = ["cost", "one question, ms", f"{_SERVED_BATCH} at once, ms", "weights, MiB"]
    spans = [f"{row.value:.0f} [{row.low:.0f}, {row.high:.0f}]" for row in (alone, batch)]
    weights = f"{by_metric['memory_mib'].value:.0f}"
    return Table(heads, [["template", "0", "0", "0"], ["generator", *spans, weights]]).markdown()
