"""MLLMs of random weights, for tests and for dry runs: everything real but what they say."""

from __future__ import annotations

from typing import Literal

import torch
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from codefend.models.mllm.architecture import Architecture, llava_config
from codefend.models.mllm.processor import build_processor

__all__ = ["llava_7b", "tiny_mllm"]

_CORPUS = (
    "what is at the top left?",
    "describe the image.",
    "a red car to the left of a cat",
    "yes",
    "no",
)


def _tiny_architecture(tower: Literal["vit", "levit"]) -> Architecture:
    return Architecture(tower=tower, vision_width=32, vision_depth=1, text_width=32, text_depth=1)


def tiny_mllm(
    seed: int = 0, *, tower: Literal["vit", "levit"] = "levit"
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A model and its processor, in eval mode; answers are noise, the same for the same seed."""
    architecture = _tiny_architecture(tower)
    processor = build_processor(_CORPUS, architecture, vocab_size=300)
    config = llava_config(processor, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
    return model, processor


def llava_7b(device: str, seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """LLaVA-1.5-7B in shape and size (Liu et al. 2023), in bfloat16, and a processor for it.

    Its tokenizer is the embedded model's: 7 billion weights cost what they cost, whatever the
    words are.

    Args:
        device: Where its weights are drawn; 14 GB of them.
        seed: Of its weights.
    """
    processor = build_processor(_CORPUS, _tiny_architecture("vit"), vocab_size=300)
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    side = {"height": vision.image_size, "width": vision.image_size}
    processor.image_processor = SiglipImageProcessorPil(size=side, resample=3)
    processor.patch_size = vision.patch_size
    # Its language model's sizes are transformers' own defaults: Llama's 7B.
    config = LlavaConfig(
        vision_config=vision,
        image_token_index=processor.image_token_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
    )
    tokenizer = processor.tokenizer
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    place, default = torch.device(device), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.bfloat16)
        try:
            with place:
                model = LlavaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(default)
    return model, processor
