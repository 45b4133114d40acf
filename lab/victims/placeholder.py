"""What a processor writes into the text in place of an image; its length depends on the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from codefend.lab.victims.dialogue import chat_prompt

__all__ = ["ImageSpan", "image_span"]


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
