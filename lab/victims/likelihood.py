"""How likely the victim finds given answers, differentiable in the image; attacks move it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from codefend.lab.victims.dialogue import Dialogue, TokenisedDialogue, tokenise
from codefend.lab.victims.packing import (
    PackedSequence,
    PaddedSequences,
    image_span,
    pack,
    pad_sequences,
)
from codefend.lab.victims.victim import Victim, accepts

__all__ = [
    "DialogueLoss",
    "PackedAnswers",
    "UnpackedAnswers",
    "capped_margin",
    "mean_cross_entropy",
]

Groups = Sequence[Sequence[TokenisedDialogue]]
AnswerScore = Callable[..., Tensor]
"""Logits (M, V), right ids (M,) and the answer of each token (M,) to scores of answers (A,)."""


class AnswerLogits(Protocol):
    """What the victim predicts where it should say the answers, by image, dialogue and place."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) float in [0, 1] to logits (M, V) float32 and the right ids (M,)."""
        ...


def mean_cross_entropy(logits: Tensor, right: Tensor, answer_of: Tensor) -> Tensor:
    """Mean over an answer's tokens of their cross-entropy."""
    losses = F.cross_entropy(logits, right, reduction="none")
    return _by_answer(losses, answer_of, "mean")


def capped_margin(
    logits: Tensor, right: Tensor, answer_of: Tensor, *, confidence: float = 5.0
) -> Tensor:
    """By how much an answer's worst token loses against another token, at most ``confidence``.

    The margin of Carlini & Wagner 2017 ("Towards Evaluating the Robustness of Neural Networks",
    f6), where one wrong token makes an answer wrong. Cross-entropy still grows once an answer is
    wrong, and hardly where it is sure: of several answers, it pushes those that are lost already.
    """
    own = logits.gather(1, right[:, None])
    others = logits.scatter(1, right[:, None], -torch.inf).amax(dim=1)
    return _by_answer(others - own[:, 0], answer_of, "amax").clamp_max(confidence)


def _by_answer(values: Tensor, answer_of: Tensor, reduce: str) -> Tensor:
    num_answers = int(answer_of[-1]) + 1
    empty = torch.zeros(num_answers, dtype=values.dtype, device=values.device)
    return empty.scatter_reduce(0, answer_of, values, reduce, include_self=False)


class DialogueLoss:
    """Mean over an image's dialogues of the score of the answer.

    Every dialogue weighs the same, so that a long caption does not drown one-word answers.
    LLaVA's dialogues are packed into one sequence an image; other models read them one by one.
    """

    def __init__(
        self,
        victim: Victim,
        dialogues: Sequence[Sequence[Dialogue]],
        score: AnswerScore = mean_cross_entropy,
    ) -> None:
        """Prepares the loss of a batch.

        Args:
            victim: whose loss it is.
            dialogues: for each image of the batch, what is asked and answered; at least one each.
            score: what an answer contributes; higher where it is less likely.

        Raises:
            ValueError: where an image has no dialogue.
        """
        if not dialogues or not all(dialogues):
            raise ValueError("every image needs at least one dialogue")
        groups = [[tokenise(victim.processor, d) for d in group] for group in dialogues]
        self.answer_logits: AnswerLogits = (
            PackedAnswers(victim, groups)
            if _is_packable(victim, groups)
            else UnpackedAnswers(victim, groups)
        )
        lengths = [len(d.after) - d.num_prompt for group in groups for d in group]
        images = [row for row, group in enumerate(groups) for _ in group]
        answers = torch.arange(len(lengths), device=victim.device)
        self._score = partial(
            score, answer_of=answers.repeat_interleave(torch.tensor(lengths, device=victim.device))
        )
        self._image_of = torch.tensor(images, device=victim.device)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to losses (B,), on the images' device."""
        return _by_answer(self.answers(images), self._image_of, "mean").to(images.device)

    def answers(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to the score of each answer (A,), by image and dialogue."""
        return self._score(*self.answer_logits(images))


def _is_packable(victim: Victim, groups: Groups) -> bool:
    """Whether the model takes a mask of our own and all dialogues begin alike."""
    if not isinstance(victim.model, LlavaForConditionalGeneration):
        return False
    attention = victim.model.model.language_model.config._attn_implementation
    before = groups[0][0].before
    alike = all(dialogue.before == before for group in groups for dialogue in group)
    return attention in {"sdpa", "eager"} and alike


class PackedAnswers:
    """All dialogues of an image in one sequence, the image read once."""

    def __init__(self, victim: Victim, groups: Groups) -> None:
        """Nothing is laid out until the number of image tokens is known, at the first call."""
        self._victim = victim
        self._groups = groups
        self._packed: tuple[PackedSequence, Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``AnswerLogits.__call__``."""
        model = self._victim.model
        image_tokens = self._victim.image_tokens(images)
        if self._packed is None:
            self._packed = self._lay_out(image_tokens)
        packed, text, mask = self._packed
        embed = model.get_input_embeddings()
        before = embed(packed.before.to(text.device)).expand(len(text), -1, -1)
        hidden = model.model.language_model(
            inputs_embeds=torch.cat([before, image_tokens, text], dim=1),
            attention_mask=mask,
            position_ids=packed.positions.to(text.device),
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[packed.rows, packed.sources])
        return logits.float(), packed.targets.to(text.device)

    def _lay_out(self, image_tokens: Tensor) -> tuple[PackedSequence, Tensor, Tensor]:
        packed = pack(self._groups, image_tokens.shape[1])
        device, dtype = image_tokens.device, image_tokens.dtype
        text = self._victim.model.get_input_embeddings()(packed.text.to(device))
        blocked = torch.zeros(packed.mask.shape, dtype=dtype, device=device)
        blocked.masked_fill_(~packed.mask.to(device), torch.finfo(dtype).min)
        return packed, text, blocked


class UnpackedAnswers:
    """One sequence a dialogue, through the model's own ``forward``; each image encoded once."""

    def __init__(self, victim: Victim, groups: Groups) -> None:
        """Nothing is laid out until the images' size is known, at the first call."""
        self._victim = victim
        self._dialogues = [dialogue for group in groups for dialogue in group]
        self._owners = [row for row, group in enumerate(groups) for _ in group]
        self._keeps_few = accepts(victim.model, "logits_to_keep")
        self._layouts: dict[tuple[int, int], PaddedSequences] = {}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``AnswerLogits.__call__``."""
        victim, device = self._victim, self._victim.device
        height, width = images.shape[-2:]
        if (height, width) not in self._layouts:
            span = image_span(victim.processor, height, width)
            self._layouts[height, width] = pad_sequences(self._dialogues, span)
        layout = self._layouts[height, width]
        text: dict[str, Any] = {name: ids.to(device) for name, ids in layout.inputs.items()}
        # A large vocabulary's logits at every image token would be most of the memory.
        skipped = int(layout.sources.min()) if self._keeps_few else 0
        if self._keeps_few:
            text["logits_to_keep"] = layout.length - skipped
        logits = victim.model(**text, **victim.sequence_inputs(images, self._owners)).logits
        chosen = logits[layout.rows.to(device), layout.sources.to(device) - skipped]
        return chosen.float(), layout.targets.to(device)
