"""Several dialogues about one image in one sequence; the image's tokens are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codefend.lab.victims.dialogue import TokenisedDialogue

__all__ = ["PackedSequence", "pack"]

_SHARED, _PADDING = 0, -1


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """A batch of packed sequences: a shared part (prefix and image), then blocks of text.

    With S shared tokens, T the longest text, L = S + T, and M supervised tokens in all:

    Attributes:
        before: (num_before,) ids of the prefix, the same for every image.
        text: (B, T) ids behind the image, padded.
        positions: (B, L) position ids; every block counts on from the shared part.
        mask: (B, 1, L, L) bool: what each token may look at.
        rows: (M,) the image of each supervised token.
        sources: (M,) where in its sequence each supervised token is predicted.
        targets: (M,) the supervised ids, by image, dialogue and place.
    """

    before: Tensor
    text: Tensor
    positions: Tensor
    mask: Tensor
    rows: Tensor
    sources: Tensor
    targets: Tensor


def pack(dialogues: Sequence[Sequence[TokenisedDialogue]], num_image_tokens: int) -> PackedSequence:
    """Lays out the dialogues of each image behind one copy of the image.

    A block sees the shared part and its own past, never another block: each prediction equals that
    of its dialogue alone.

    Args:
        dialogues: for each image, its dialogues; all begin alike up to the image.
        num_image_tokens: how many tokens the image takes.

    Raises:
        ValueError: where prefixes differ.
    """
    before = dialogues[0][0].before
    if any(dialogue.before != before for group in dialogues for dialogue in group):
        raise ValueError("packed dialogues must begin alike up to the image")
    num_shared = len(before) + num_image_tokens
    num_text = max(sum(len(d.after) - 1 for d in group) for group in dialogues)
    text = torch.zeros(len(dialogues), num_text, dtype=torch.long)
    blocks = torch.full((len(dialogues), num_shared + num_text), _PADDING)
    blocks[:, :num_shared] = _SHARED
    positions = torch.zeros_like(blocks)
    positions[:, :num_shared] = torch.arange(num_shared)
    rows, sources, targets = [], [], []
    for row, group in enumerate(dialogues):
        start = 0
        for block, dialogue in enumerate(group, start=1):
            size = len(dialogue.after) - 1  # the last token is predicted, never read
            place = slice(num_shared + start, num_shared + start + size)
            text[row, start : start + size] = torch.tensor(dialogue.after[:-1])
            blocks[row, place] = block
            positions[row, place] = torch.arange(num_shared, num_shared + size)
            for index in range(dialogue.num_prompt, len(dialogue.after)):
                rows.append(row)
                sources.append(num_shared + start + index - 1 if index else num_shared - 1)
                targets.append(dialogue.after[index])
            start += size
    return PackedSequence(
        before=torch.tensor(before, dtype=torch.long),
        text=text,
        positions=positions,
        mask=_block_mask(blocks),
        rows=torch.tensor(rows),
        sources=torch.tensor(sources),
        targets=torch.tensor(targets),
    )


def _block_mask(blocks: Tensor) -> Tensor:
    """(B, L) block numbers to a (B, 1, L, L) mask: causal, within the block or the shared part."""
    length = blocks.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = blocks[:, :, None] == blocks[:, None, :]
    return (causal & (same | (blocks == _SHARED)[:, None, :]))[:, None]
