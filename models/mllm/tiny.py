"""A tiny embedded MLLM with random weights, for tests: everything real but what it says."""

from __future__ import annotations

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from models.mllm.architecture import llava_config, vision_config
from models.mllm.processor import build_processor

__all__ = ["tiny_mllm"]

_CORPUS = (
    "what is at the top left?",
    "describe the image.",
    "a red car to the left of a cat",
    "yes",
    "no",
)


def tiny_mllm(seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A model and its processor, in eval mode; answers are noise, the same for the same seed."""
    processor = build_processor(_CORPUS, vocab_size=300)
    vision = vision_config(hidden_size=32, depth=1)
    config = llava_config(processor, vision=vision, hidden_size=32, depth=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
    return model, processor
