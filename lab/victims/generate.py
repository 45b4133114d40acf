"""Greedy answers of a victim to many questions about many images, through its stock path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codefend.lab.victims.dialogue import chat_prompt
from codefend.lab.victims.victim import Victim, accepts, shared_features

__all__ = ["MAX_ANSWER_TOKENS", "MAX_CAPTION_TOKENS", "generate"]

MAX_ANSWER_TOKENS = 8
"""Longest answer wherever answers are scored; captions have ``MAX_CAPTION_TOKENS``."""
MAX_CAPTION_TOKENS = 48


@torch.no_grad()
def generate(
    victim: Victim,
    images: Sequence[np.ndarray],
    prompts: Sequence[Sequence[str]],
    *,
    max_new_tokens: int,
    batch_size: int = 256,
) -> list[list[str]]:
    """Asks every image its prompts, greedily, by the stock processor and ``generate``.

    The vision tower sees each image once a batch, however many prompts it has.

    Args:
        victim: the model asked.
        images: (H, W, 3) uint8 each; sizes may differ.
        prompts: for each image, the texts to ask.
        max_new_tokens: longest answer.
        batch_size: most prompts at once.

    Returns:
        For each image, the answers in the order of its prompts.
    """
    flat = [(index, text) for index, texts in enumerate(prompts) for text in texts]
    answers: list[list[str]] = [[] for _ in prompts]
    for start in range(0, len(flat), batch_size):
        chunk = flat[start : start + batch_size]
        pictures = {index: Image.fromarray(images[index]) for index, _ in chunk}
        texts = _answer(victim, pictures, chunk, max_new_tokens)
        for (index, _), text in zip(chunk, texts, strict=True):
            answers[index].append(text)
    return answers


def _answer(
    victim: Victim,
    pictures: dict[int, Image.Image],
    chunk: Sequence[tuple[int, str]],
    max_new_tokens: int,
) -> list[str]:
    processor = victim.processor
    inputs = processor(
        text=[chat_prompt(processor, text) for _, text in chunk],
        images=[pictures[index] for index, _ in chunk],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    ).to(victim.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(victim.dtype)
    if accepts(victim.model, "mm_encoder_outputs"):
        order = [index for index, _ in chunk]
        inputs["mm_encoder_outputs"] = _encode_once(victim.model, inputs, order)
    ids = victim.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    new_ids = ids[:, inputs["input_ids"].shape[1] :]
    texts: list[str] = processor.batch_decode(new_ids, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _encode_once(model: Any, inputs: Any, order: list[int]) -> dict[str, Any]:
    """Features of the distinct images among ``order``, repeated; takes the pixels out of inputs."""
    distinct = list(dict.fromkeys(order))
    rows = [order.index(index) for index in distinct]
    vision = {"pixel_values": _pick(inputs.pop("pixel_values"), inputs.get("image_grid_thw"), rows)}
    for name in ("image_grid_thw", "pixel_attention_mask"):
        if name in inputs:
            vision[name] = inputs[name][rows]
    features = model.get_image_features(**vision).pooler_output
    return shared_features(features, [distinct.index(index) for index in order])


def _pick(pixel_values: Tensor, grid: Tensor | None, rows: list[int]) -> Tensor:
    """The pixels of some images; with a grid, all images' patches lie in one flat sequence."""
    if grid is None:
        return pixel_values[rows]
    patches = torch.split(pixel_values, grid.prod(dim=1).tolist())
    return torch.cat([patches[row] for row in rows])
