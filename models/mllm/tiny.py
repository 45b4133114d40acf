"""A tiny embedded MLLM with random weights, for tests: everything real but what it says."""

from __future__ import annotations

from typing import Literal

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from codefend.models.mllm.architecture import Architecture, llava_config
from codefend.models.mllm.processor import build_processor

__all__ = ["tiny_mllm"]

_CORPUS = (
    "what is at the top left?",
    "describe the image.",
    "a red car to the left of a cat",
    "yes",
    "no",
)


def tiny_mllm(
    seed: int = 0, *, tower: Literal["vit", "levit"] = "levit"
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A model and its processor, in eval mode; answers are noise, the same for the same seed."""
    architecture = Architecture(
        tower=tower, vision_width=32, vision_depth=1, text_width=32, text_depth=1
    )
    processor = build_processor(_CORPUS, architecture, vocab_size=300)
    config = llava_config(processor, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
    return model, processor
