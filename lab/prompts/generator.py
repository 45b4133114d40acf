"""`codefend-lab prompt-generator`: a small language model learns to write prefixes to questions.

The paper's own way: a LoRA-tuned generator of prefixes. It samples prefixes, has them scored by the
objectives of the search, and is tuned on the winners, round by round (rejection sampling: Dong et
al. 2023, "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import typer
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field, PositiveInt
from transformers import AutoModelForCausalLM, AutoTokenizer

from codefend.lab.errors import LabError
from codefend.lab.progress import progress
from codefend.lab.prompts.command import FindPrompt
from codefend.lab.prompts.items import Item
from codefend.lab.prompts.search import Scorer
from codefend.lab.prompts.texts import PLAIN, is_oracle
from codefend.lab.victims.dialogue import CAPTION_REQUEST
from codefend.models.prompts.templates import PLACEHOLDER

__all__ = ["PrefixGenerator", "TrainGenerator"]

_TASK = (
    "An image comes from a stranger and may be altered or written on to mislead. Write one short "
    "instruction that helps a model to answer rightly. Question: {question}"
)
_RANK, _ALPHA = 16, 32
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class PrefixGenerator:
    """Writes a prefix to each question; the question itself it never touches.

    Attributes:
        model: a causal language model with adapters.
        tokenizer: its tokenizer, with a chat template.
        max_tokens: longest prefix.
    """

    model: Any
    tokenizer: Any
    max_tokens: int = 16

    @classmethod
    def load(cls, source: str, *, max_tokens: int = 16) -> PrefixGenerator:
        """A base with fresh adapters on its attention.

        Args:
            source: directory or hub id of a causal language model.
            max_tokens: longest prefix.

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
        return cls(get_peft_model(model, adapters), tokenizer, max_tokens)

    @classmethod
    def tuned(cls, source: str, adapters: Path, *, max_tokens: int = 16) -> PrefixGenerator:
        """A base with the adapters of a training.

        Args:
            source: as of `load`.
            adapters: their folder.
            max_tokens: longest prefix.

        Raises:
            LabError: where either is missing.
        """
        fresh = cls.load(source, max_tokens=max_tokens)
        if not (adapters / "adapter_config.json").exists():
            raise LabError(f"{adapters} holds no adapters: see codefend-lab prompt-generator")
        base = fresh.model.unload()
        return cls(PeftModel.from_pretrained(base, adapters), fresh.tokenizer, max_tokens)

    def prompt(self, question: str) -> str:
        """The question as it is, behind its likeliest prefix."""
        ((prefix,),) = self.write([question], num=1, seed=None)
        return f"{prefix} {question}".strip()

    @torch.no_grad()
    def write(self, questions: Sequence[str], *, num: int, seed: int | None) -> list[list[str]]:
        """Prefixes for each question.

        Args:
            questions: what is asked.
            num: how many for each.
            seed: of the sampling; the likeliest prefix alone where None.

        Returns:
            One line each, without the mark that stands for a question; empty where nothing came.
        """
        self.model.eval()
        asked = [self._asked(question) for question in questions]
        inputs = self.tokenizer(
            asked, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(self.model.device)
        how: dict[str, Any] = {"do_sample": False}
        if seed is not None:
            how = {"do_sample": True, "num_return_sequences": num}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed or 0)
            ids = self.model.generate(
                **inputs,
                **how,
                max_new_tokens=self.max_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts = [_one_line(t) for t in self.tokenizer.batch_decode(new, skip_special_tokens=True)]
        count = len(texts) // len(questions)
        return [texts[i * count : (i + 1) * count] for i in range(len(questions))]

    def loss(self, question: str, prefix: str) -> torch.Tensor:
        """Cross-entropy of a prefix, its end included, after a question."""
        asked = self._ids(self._asked(question))
        told = [*self._ids(prefix), self.tokenizer.eos_token_id]
        ids = torch.tensor([[*asked, *told]], device=self.model.device)
        labels = torch.tensor([[_IGNORED] * len(asked) + told], device=self.model.device)
        loss: torch.Tensor = self.model(input_ids=ids, labels=labels).loss
        return loss

    def _asked(self, question: str) -> str:
        message = {"role": "user", "content": _TASK.replace(PLACEHOLDER, question)}
        text: str = self.tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True
        )
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _one_line(text: str) -> str:
    """What may stand before a question: one line of plain characters, no place for a question."""
    line = re.sub(r"[{}\x00-\x1f\x7f]+", " ", text)
    return " ".join(line.split())


class TrainGenerator(FindPrompt):
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
    max_tokens: PositiveInt = 16
    """Longest prefix, in tokens."""

    def run(self) -> None:
        """Tunes, writes the adapters to `OUT/adapters`, and says what each round was worth."""
        generator = PrefixGenerator.load(self.language_model, max_tokens=self.max_tokens)
        scorer, items, _, _ = self.prepare()
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
        generator.model.save_pretrained(self.out / "adapters")


def _question(item: Item) -> str:
    return item.question or CAPTION_REQUEST


def _likeliest(generator: PrefixGenerator, items: Sequence[Item]) -> list[str]:
    questions = list(dict.fromkeys(map(_question, items)))
    written = generator.write(questions, num=1, seed=None)
    prefix = {q: texts[0] for q, texts in zip(questions, written, strict=True)}
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
    written = generator.write(questions, num=num, seed=number)
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
        loss = generator.loss(question, prefix)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
