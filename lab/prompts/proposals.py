"""Where new texts come from without a language model: seeded edits, and gradients.

`Grammar` edits words and clauses and needs nothing but a seed. `TokenSearch` needs a local model:
Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models",
Algorithm 2 (GCG), turned round: the loss is that of the right answers, and it is to fall.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.progress import progress
from codefend.lab.prompts.items import Item
from codefend.lab.prompts.texts import PLAIN, is_oracle, parts
from codefend.lab.victims.dialogue import CAPTION_REQUEST, Dialogue, tokenise
from codefend.lab.victims.likelihood import DialogueLoss, UnpackedAnswers, mean_cross_entropy
from codefend.lab.victims.victim import Victim
from codefend.models.prompts.templates import PLACEHOLDER, Template
from codefend.models.quantise import dequantise

__all__ = ["COMPONENT", "Grammar", "TokenSearch", "WhiteBoxSettings"]

COMPONENT = "template"
"""The one part of a candidate that the search changes."""
_TRIES = 200


def joined(before: str, after: str) -> str:
    """A template of what stands before and behind the question."""
    return " ".join(part for part in (before, PLACEHOLDER, after) if part)


class Grammar:
    """Edits words and clauses of a text; what it has proposed it never proposes again.

    The same seed and the same calls give the same proposals: a search that is run again from the
    start finds its answers on disk and goes on where it was killed.
    """

    def __init__(self, seeds: Sequence[str], *, seed: int, max_words: int) -> None:
        """Takes its words and clauses from the seeds.

        Args:
            seeds: templates.
            seed: of all choices.
            max_words: most words beside the question.
        """
        self._rng = random.Random(seed)  # noqa: S311 - a search, no secret
        self._max_words = max_words
        self._pool = list(seeds)
        self._clauses = [part for text in seeds for part in parts(text) if part]
        self._words = sorted({word for clause in self._clauses for word in clause.split()})
        self._fresh = list(reversed(seeds))
        self._proposed = {PLAIN}
        self._edits: tuple[Callable[[list[str], list[str]], None], ...] = (
            self._drop,
            self._insert,
            self._replace,
            self._swap,
            self._move,
            self._take_clause,
            self._cross,
        )

    def __call__(
        self,
        candidate: Mapping[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: Sequence[str],
    ) -> dict[str, str]:
        """A new text: the seeds first; none where every try was known, too long or an oracle."""
        if self._fresh:
            self._proposed.add(self._fresh[-1])
            return {COMPONENT: self._fresh.pop()}
        parent = candidate[COMPONENT]
        if parent not in self._pool:
            self._pool.append(parent)
        for _ in range(_TRIES):
            text = self._edited(parent)
            if text not in self._proposed and not is_oracle(text):
                self._proposed.add(text)
                return {COMPONENT: text}
        return {}

    def _edited(self, text: str) -> str:
        before, after = (part.split() for part in parts(text))
        for _ in range(1 + self._rng.randrange(3)):
            self._rng.choice(self._edits)(before, after)
        if len(before) + len(after) > self._max_words:
            return text
        return joined(" ".join(before), " ".join(after))

    def _side(self, before: list[str], after: list[str]) -> list[str]:
        """One that has words, where either has."""
        full = [words for words in (before, after) if words]
        return self._rng.choice(full or [after])

    def _drop(self, before: list[str], after: list[str]) -> None:
        words = self._side(before, after)
        if words:
            words.pop(self._rng.randrange(len(words)))

    def _insert(self, before: list[str], after: list[str]) -> None:
        words = self._side(before, after)
        words.insert(self._rng.randrange(len(words) + 1), self._rng.choice(self._words))

    def _replace(self, before: list[str], after: list[str]) -> None:
        words = self._side(before, after)
        if words:
            words[self._rng.randrange(len(words))] = self._rng.choice(self._words)

    def _swap(self, before: list[str], after: list[str]) -> None:
        words = self._side(before, after)
        if len(words) > 1:
            place = self._rng.randrange(len(words) - 1)
            words[place : place + 2] = reversed(words[place : place + 2])

    @staticmethod
    def _move(before: list[str], after: list[str]) -> None:
        """What stood before the question stands behind it, and the other way round."""
        before[:], after[:] = after[:], before[:]

    def _take_clause(self, before: list[str], after: list[str]) -> None:
        words = self._rng.choice((before, after))
        words.extend(self._rng.choice(self._clauses).split())

    def _cross(self, before: list[str], after: list[str]) -> None:
        """The head of one side and the tail of another text's."""
        other = [part.split() for part in parts(self._rng.choice(self._pool))]
        side = self._rng.randrange(2)
        words, theirs = (before, after)[side], other[side]
        cut, start = (self._rng.randrange(len(each) + 1) for each in (words, theirs))
        words[cut:] = theirs[start:]


_TOP_K = 16
_FILLER = "look"
"""Where nothing stands behind the question yet."""


class WhiteBoxSettings(RunSettings):
    """The search by gradients beside it, on local models alone."""

    rounds: NonNegativeInt = 0
    """Rounds of token swaps; none where 0."""
    num_tokens: PositiveInt = 4
    """Least length of the text behind the question, in tokens."""
    num_candidates: PositiveInt = 24
    """Swaps tried in each round."""
    num_items: PositiveInt = 24
    """Items whose right answers make the loss."""


@dataclass(slots=True)
class TokenSearch:
    """Swaps tokens behind the question, one a round, so that the right answers become likelier.

    Only what reads back as the same tokens is tried: a template is text, not tokens.

    Attributes:
        victim: whose gradients are used.
        items: images of one size, with right answers.
        seed: of the choice of items and swaps.
        settings: how much is tried.
    """

    victim: Victim
    items: Sequence[Item]
    seed: int
    settings: WhiteBoxSettings
    _images: Tensor = field(init=False)
    _rng: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Draws the items."""
        self._rng = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.items), generator=self._rng)[: self.settings.num_items]
        self.items = [self.items[index] for index in order.tolist()]
        pixels = np.stack([item.image for item in self.items])
        self._images = dequantise(torch.from_numpy(pixels))

    def run(self, start: str) -> str:
        """A template whose text behind the question makes the right answers likelier.

        Args:
            start: the template that it grows from; what stands before the question stays.
        """
        before, after = parts(start)
        ids = self._padded(after)
        if not self._is_text(before, ids):
            raise LabError(f"{start!r}: the text behind the question is no text of whole tokens")
        lowest = self.loss(joined(before, self._text(ids)))
        with progress(total=self.settings.rounds, desc="tokens") as bar:
            for _ in range(self.settings.rounds):
                tried = self._swaps(before, ids)
                losses = [self.loss(joined(before, self._text(other))) for other in tried]
                if losses and min(losses) < lowest:
                    lowest = min(losses)
                    ids = tried[losses.index(lowest)]
                bar.set_postfix(loss=lowest)
                bar.update()
        return joined(before, self._text(ids))

    @torch.no_grad()
    def loss(self, text: str) -> float:
        """Mean cross-entropy of the items' right answers under a template."""
        dialogues = [[dialogue] for dialogue in self._dialogues(text)]
        return float(DialogueLoss(self.victim, dialogues)(self._images).mean())

    def _dialogues(self, text: str) -> list[Dialogue]:
        template = Template("candidate", "1", text, CAPTION_REQUEST)
        return [Dialogue(template.fill(item.question), item.answer) for item in self.items]

    def _swaps(self, before: str, ids: Sequence[int]) -> list[list[int]]:
        """Texts that differ from this one by one of the most promising tokens at one place."""
        gradient = self._gradient(joined(before, self._text(ids)), ids)
        embeddings = self.victim.model.get_input_embeddings().weight.detach().float()
        # To first order a swap at place p changes the loss by gradient[p] · (new - old).
        promising = (-gradient @ embeddings.T).topk(min(_TOP_K, len(embeddings)), dim=1).indices
        found: list[list[int]] = []
        for _ in range(self.settings.num_candidates):
            place = int(torch.randint(len(ids), (), generator=self._rng))
            rank = int(torch.randint(promising.shape[1], (), generator=self._rng))
            other = [*ids]
            other[place] = int(promising[place, rank])
            if other not in found and self._is_text(before, other):
                found.append(other)
        return found

    def _is_text(self, before: str, ids: Sequence[int]) -> bool:
        """Whether these tokens can be typed: printable, none with a meaning to the model's chat."""
        text = self._text(ids)
        special = {self.victim.processor.image_token_id}
        special |= set(self.victim.processor.tokenizer.all_special_ids)
        is_typed = bool(text) and text.isprintable() and special.isdisjoint(ids)
        return is_typed and self._ids(text) == list(ids) and not is_oracle(joined(before, text))

    def _gradient(self, text: str, ids: Sequence[int]) -> Tensor:
        """(len(ids), D): of the mean loss, by the embedding at each place of the text."""
        kept: dict[str, Tensor] = {}

        def keep(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            kept["ids"] = inputs[0]
            kept["embedded"] = output.detach().requires_grad_()
            return kept["embedded"]

        groups = [[tokenise(self.victim.processor, each)] for each in self._dialogues(text)]
        hook = self.victim.model.get_input_embeddings().register_forward_hook(keep)
        try:
            logits, right = UnpackedAnswers(self.victim, groups)(self._images)
        finally:
            hook.remove()
        lengths = [len(each.after) - each.num_prompt for (each,) in groups]
        owner = torch.arange(len(groups)).repeat_interleave(torch.tensor(lengths))
        mean_cross_entropy(logits, right, owner.to(logits.device)).mean().backward()  # type: ignore[no-untyped-call]
        total = torch.zeros(len(ids), kept["embedded"].shape[-1])
        wanted = torch.tensor(list(ids), device=kept["ids"].device)
        slope = kept["embedded"].grad
        for row in range(len(groups)):
            windows = kept["ids"][row].unfold(0, len(ids), 1)
            places = (windows == wanted).all(dim=1).nonzero().flatten().tolist()
            if places and slope is not None:
                total += slope[row, places[-1] : places[-1] + len(ids)].float().cpu()
        return total

    def _padded(self, text: str) -> list[int]:
        """Of the text, its last word repeated until there are as many tokens as are wanted."""
        words = text.split() or [_FILLER]
        while len(self._ids(" ".join(words))) < self.settings.num_tokens:
            words.append(words[-1])
        return self._ids(" ".join(words))

    def _ids(self, text: str) -> list[int]:
        """Of the text as it stands behind a question."""
        tokenizer = self.victim.processor.tokenizer
        ids: list[int] = tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.victim.processor.tokenizer.decode(ids)
        return text.strip()
