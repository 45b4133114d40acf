"""The embedded MLLM's architecture: a stock LLaVA with a LeViT tower and a small Llama."""

from __future__ import annotations

from transformers import LevitConfig, LevitModel, LlamaConfig, LlavaConfig, LlavaProcessor

__all__ = ["IMAGE_SIDE_PX", "NUM_IMAGE_TOKENS", "llava_config", "vision_config", "vision_tower"]

IMAGE_SIDE_PX = 128
NUM_IMAGE_TOKENS = 64


def vision_config(*, hidden_size: int = 256, depth: int = 6) -> LevitConfig:
    """One LeViT stage (Graham et al. 2021): four stride-2 convolutions, then attention on 8×8.

    A convolutional stem learns from far fewer images than a patch embedding (Xiao et al. 2021).
    """
    config = LevitConfig(
        image_size=IMAGE_SIDE_PX,
        hidden_sizes=[hidden_size, hidden_size],
        depths=[depth],
        num_attention_heads=[hidden_size // 32],
        key_dim=[32],
        attention_ratio=[1],
        mlp_ratio=[4],
    )
    config.down_ops = [[""]]  # the only stage is not followed by a subsampling
    config.hidden_size = hidden_size  # where LLaVA's projector looks for the width
    return config


def vision_tower(*, hidden_size: int = 256, depth: int = 6) -> LevitModel:
    """A tower of its own, for training before the language model: (B, 3, 128, 128) → (B, 64, C)."""
    return LevitModel(vision_config(hidden_size=hidden_size, depth=depth))


def llava_config(
    processor: LlavaProcessor,
    *,
    vision: LevitConfig | None = None,
    hidden_size: int = 192,
    depth: int = 4,
) -> LlavaConfig:
    """The configuration of the whole model, for the tokens of ``processor``."""
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3,
        num_hidden_layers=depth,
        num_attention_heads=hidden_size // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=vision or vision_config(),
        text_config=text,
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
