"""`codefend-lab prompt-generator`: a small language model learns to write prefixes to questions.

The paper's own way: a LoRA-tuned generator of prefixes. It samples prefixes, has them scored by the
objectives of the search, and is tuned on the winners, round by round (rejection sampling: Dong et
al. 2023, "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import typer
from peft import LoraConfig, get_peft_model
from pydantic import Field, PositiveInt
from transformers import AutoModelForCausalLM, AutoTokenizer

from codefend.lab.errors import LabError
from codefend.lab.progress import progress
from codefend.lab.prompts.experiment import PromptExperiment
from codefend.lab.prompts.items import Item
from codefend.lab.prompts.search import Scorer
from codefend.lab.prompts.texts import PLAIN, is_oracle
from codefend.lab.victims.dialogue import CAPTION_REQUEST
from codefend.models.prompts.generator import PrefixGenerator
from codefend.models.prompts.templates import PLACEHOLDER

__all__ = ["TrainGenerator", "prefix_loss", "sampled", "untuned"]

_RANK, _ALPHA = 16, 32
_IGNORED = -100


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        written = generator.write(questions, do_sample=True, num_return_sequences=num)
    rows = [written[i * num : (i + 1) * num] for i in range(len(questions))]
    return [[text for text in row if text] for row in rows]


def prefix_loss(generator: PrefixGenerator, question: str, prefix: str) -> torch.Tensor:
    """Cross-entropy of a prefix, its end included, after a question."""
    tokenizer = generator.tokenizer
    asked = generator.encode([question])["input_ids"][0].tolist()
    told = tokenizer(prefix, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    labels = torch.tensor([[_IGNORED] * len(asked) + told])
    loss: torch.Tensor = generator.model(input_ids=torch.tensor([asked + told]), labels=labels).loss
    return loss


class TrainGenerator(PromptExperiment):
    """Tune a generator of prefixes on those of its own that helped; the adapters are the result."""

    name: ClassVar[str] = "prompt-generator"

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

    def run(self) -> None:
        """Tunes, writes the adapters to `OUT/adapters`, and says what each round was worth."""
        generator = untuned(self.language_model, max_new_tokens=self.max_new_tokens)
        known = self.prepare()
        scorer, items = known.scorer, known.items
        plain = _mean_score(scorer, items["validation"], [""] * len(items["validation"]))
        typer.echo(f"validation, mean score: plain question {plain:.3f}")
        optimizer = torch.optim.AdamW(
            (p for p in generator.model.parameters() if p.requires_grad), lr=self.learning_rate
        )
        for number in range(self.rounds):
            winners = _winners(generator, scorer, items["train"], self.num_samples, number)
            _tune(generator, optimizer, winners)
            greedy = _likeliest(generator, items["validation"])
            score = _mean_score(scorer, items["validation"], greedy)
            typer.echo(f"round {number + 1}: {len(winners)} winners, validation {score:.3f}")
        generator.save(self.out / "adapters")


def _question(item: Item) -> str:
    return item.question or CAPTION_REQUEST


def _likeliest(generator: PrefixGenerator, items: Sequence[Item]) -> list[str]:
    questions = list(dict.fromkeys(map(_question, items)))
    generator.model.eval()
    written = generator.write(questions)
    prefix = {question: text or "" for question, text in zip(questions, written, strict=True)}
    return [prefix[_question(item)] for item in items]


def _scores(scorer: Scorer, items: Sequence[Item], prefixes: Sequence[str]) -> list[float]:
    """Of each item under its prefix; an oracle counts nothing and is not asked."""
    found = [0.0] * len(items)
    by_text: dict[str, list[int]] = {}
    for number, prefix in enumerate(prefixes):
        by_text.setdefault(f"{prefix} {PLACEHOLDER}".strip(), []).append(number)
    for text, own in by_text.items():
        if not is_oracle(text):
            judged = scorer.verdicts(text, [items[i] for i in own])
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
    questions = list(groups)
    written = sampled(generator, questions, num=num, seed=number)
    winners = []
    for question, prefixes in zip(questions, progress(written, desc="prefixes"), strict=True):
        own = groups[question]
        plain = sum(judgement.score for judgement in scorer.verdicts(PLAIN, own))
        for prefix in dict.fromkeys(filter(None, prefixes)):
            if sum(_scores(scorer, own, [prefix] * len(own))) > plain:
                winners.append((question, prefix))
    return winners


def _tune(
    generator: PrefixGenerator, optimizer: torch.optim.Optimizer, winners: Sequence[tuple[str, str]]
) -> None:
    generator.model.train()
    for question, prefix in winners:
        loss = prefix_loss(generator, question, prefix)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
