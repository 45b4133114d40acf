"""One dialogue a sequence, padded to the longest: what a model's own ``forward`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codefend.lab.victims.dialogue import TokenisedDialogue
from codefend.lab.victims.placeholder import ImageSpan

__all__ = ["PaddedSequences", "pad_sequences"]


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
