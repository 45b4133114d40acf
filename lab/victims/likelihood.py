"""The victim's cross-entropy on given answers, differentiable in the image; attacks move it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from lab.victims.dialogue import Dialogue, TokenisedDialogue, chat_prompt, tokenise
from lab.victims.packing import PackedSequence, pack
from lab.victims.victim import Victim

__all__ = ["DialogueLoss", "PackedTokenLosses", "UnpackedTokenLosses"]

Groups = Sequence[Sequence[TokenisedDialogue]]


class TokenLosses(Protocol):
    """Cross-entropy of every supervised token, by image, dialogue and place."""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to (M,) float32."""
        ...


class DialogueLoss:
    """Mean over an image's dialogues of the mean cross-entropy of the answer's tokens.

    Every dialogue weighs the same, so that a long caption does not drown one-word answers.
    LLaVA's dialogues are packed into one sequence an image; other models read them one by one.
    """

    def __init__(self, victim: Victim, dialogues: Sequence[Sequence[Dialogue]]) -> None:
        """Prepares the loss of a batch.

        Args:
            victim: whose loss it is.
            dialogues: for each image of the batch, what is asked and answered; at least one each.

        Raises:
            ValueError: where an image has no dialogue.
        """
        if not dialogues or not all(dialogues):
            raise ValueError("every image needs at least one dialogue")
        groups = [[tokenise(victim.processor, d) for d in group] for group in dialogues]
        self.token_losses: TokenLosses = (
            PackedTokenLosses(victim, groups)
            if _is_packable(victim, groups)
            else UnpackedTokenLosses(victim, groups)
        )
        shares = [
            (row, 1.0 / (len(group) * (len(d.after) - d.num_prompt)))
            for row, group in enumerate(groups)
            for d in group
            for _ in range(len(d.after) - d.num_prompt)
        ]
        self._num_images = len(groups)
        self._rows = torch.tensor([row for row, _ in shares], device=victim.device)
        self._weights = torch.tensor([weight for _, weight in shares], device=victim.device)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to losses (B,), on the images' device."""
        losses = self.token_losses(images) * self._weights
        total = torch.zeros(self._num_images, device=losses.device)
        return total.index_add(0, self._rows, losses).to(images.device)


def _is_packable(victim: Victim, groups: Groups) -> bool:
    """Whether the model takes a mask of our own and all dialogues begin alike."""
    if not isinstance(victim.model, LlavaForConditionalGeneration):
        return False
    attention = victim.model.model.language_model.config._attn_implementation
    before = groups[0][0].before
    alike = all(dialogue.before == before for group in groups for dialogue in group)
    return attention in {"sdpa", "eager"} and alike


class PackedTokenLosses:
    """All dialogues of an image in one sequence, the image read once."""

    def __init__(self, victim: Victim, groups: Groups) -> None:
        """Nothing is laid out until the number of image tokens is known, at the first call."""
        self._victim = victim
        self._groups = groups
        self._packed: tuple[PackedSequence, Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """See ``TokenLosses.__call__``."""
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
        return F.cross_entropy(logits.float(), packed.targets.to(text.device), reduction="none")

    def _lay_out(self, image_tokens: Tensor) -> tuple[PackedSequence, Tensor, Tensor]:
        packed = pack(self._groups, image_tokens.shape[1])
        device, dtype = image_tokens.device, image_tokens.dtype
        text = self._victim.model.get_input_embeddings()(packed.text.to(device))
        blocked = torch.zeros(packed.mask.shape, dtype=dtype, device=device)
        blocked.masked_fill_(~packed.mask.to(device), torch.finfo(dtype).min)
        return packed, text, blocked


class UnpackedTokenLosses:
    """One sequence a dialogue, through the model's own ``forward``."""

    def __init__(self, victim: Victim, groups: Groups) -> None:
        """Takes the dialogues as they are; padding waits for the number of image tokens."""
        self._victim = victim
        self._dialogues = [dialogue for group in groups for dialogue in group]
        self._owners = torch.tensor([row for row, group in enumerate(groups) for _ in group])

    def __call__(self, images: Tensor) -> Tensor:
        """See ``TokenLosses.__call__``."""
        processor, device = self._victim.processor, self._victim.device
        num_image_tokens = _count_image_tokens(processor, images.shape[-1], images.shape[-2])
        ids, attention, rows, sources, targets = [], [], [], [], []
        longest = max(len(d.before) + len(d.after) for d in self._dialogues) + num_image_tokens
        for row, d in enumerate(self._dialogues):
            sequence = [*d.before, *[processor.image_token_id] * num_image_tokens, *d.after]
            padding = longest - len(sequence)
            ids.append(sequence + [0] * padding)
            attention.append([1] * len(sequence) + [0] * padding)
            supervised = range(len(sequence) - len(d.after) + d.num_prompt, len(sequence))
            rows += [row] * len(supervised)
            sources += [place - 1 for place in supervised]
            targets += [sequence[place] for place in supervised]
        logits = self._victim.model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(attention, device=device),
            pixel_values=self._victim.pixel_values(images)[self._owners.to(device)],
        ).logits
        wanted = torch.tensor(targets, device=device)
        return F.cross_entropy(logits[rows, sources].float(), wanted, reduction="none")


def _count_image_tokens(processor: Any, width: int, height: int) -> int:
    blank = Image.new("RGB", (width, height))
    inputs = processor(text=[chat_prompt(processor, "")], images=[blank], return_tensors="pt")
    return int((inputs["input_ids"] == processor.image_token_id).sum())
