"""Dialogues as sequences: packed behind one copy of their image, or padded one by one.

Packed, the image's tokens are computed once; padded is what a model's own ``forward`` takes, with
what the processor writes in place of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from codefend.lab.victims.dialogue import TokenisedDialogue, chat_prompt

__all__ = ["ImageSpan", "PackedSequence", "PaddedSequences", "image_span", "pack", "pad_sequences"]


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


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The tokens that stand for one image.

    Attributes:
        ids: their ids: image tokens, and marks of rows and columns where the image is in tiles.
        others: what else the processor says of each of these tokens (``mm_token_type_ids``), by
            name. It is 0 for text.
    """

    ids: tuple[int, ...]
    others: dict[str, tuple[int, ...]]


def image_span(processor: Any, height: int, width: int) -> ImageSpan:
    """Has the stock processor expand its placeholder for an image of that size.

    Args:
        processor: a processor whose chat template shows one image.
        height: of the image, in pixels, before any preprocessing.
        width: likewise.
    """
    text = chat_prompt(processor, "")
    blank = Image.new("RGB", (width, height))
    inputs = processor(text=[text], images=[blank], return_tensors="pt")
    bare: list[int] = processor.tokenizer(text)["input_ids"]
    first = bare.index(processor.image_token_id)
    ids = inputs["input_ids"]
    place = slice(first, ids.shape[1] - (len(bare) - first - 1))
    others = {
        name: tuple(values[0, place].tolist())
        for name, values in inputs.items()
        if values.shape == ids.shape and name not in {"input_ids", "attention_mask"}
    }
    return ImageSpan(tuple(ids[0, place].tolist()), others)


@dataclass(frozen=True, slots=True)
class PaddedSequences:
    """N sequences of length L, with M supervised tokens in all.

    Attributes:
        inputs: (N, L) int64 each: ``input_ids``, ``attention_mask``, and what the processor says
            of image tokens besides.
        rows: (M,) the sequence of each supervised token.
        sources: (M,) where in its sequence each supervised token is predicted.
        targets: (M,) the supervised ids, by dialogue and place.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    sources: Tensor
    targets: Tensor

    @property
    def length(self) -> int:
        """L."""
        return self.inputs["input_ids"].shape[1]


def pad_sequences(dialogues: Sequence[TokenisedDialogue], span: ImageSpan) -> PaddedSequences:
    """Puts the image's tokens into each dialogue, and padding behind it.

    Args:
        dialogues: at least one.
        span: what stands for the image; the same for all, since all images have one size.
    """
    num_span = len(span.ids)
    shape = (len(dialogues), max(len(d.before) + num_span + len(d.after) for d in dialogues))
    names = ("input_ids", "attention_mask", *span.others)
    inputs = {name: torch.zeros(shape, dtype=torch.long) for name in names}
    rows, sources, targets = [], [], []
    for row, d in enumerate(dialogues):
        sequence = [*d.before, *span.ids, *d.after]
        image = slice(len(d.before), len(d.before) + num_span)
        inputs["input_ids"][row, : len(sequence)] = torch.tensor(sequence)
        inputs["attention_mask"][row, : len(sequence)] = 1
        for name, values in span.others.items():
            inputs[name][row, image] = torch.tensor(values)
        supervised = range(image.stop + d.num_prompt, len(sequence))
        rows += [row] * len(supervised)
        sources += [place - 1 for place in supervised]
        targets += [sequence[place] for place in supervised]
    return PaddedSequences(inputs, torch.tensor(rows), torch.tensor(sources), torch.tensor(targets))
