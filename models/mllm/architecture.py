"""The embedded MLLMs' architectures: stock LLaVAs, a small Llama behind one of two towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoModel, CLIPVisionConfig, LevitConfig, LlamaConfig, LlavaConfig

__all__ = [
    "ARCHITECTURES",
    "IMAGE_SIDE_PX",
    "NUM_IMAGE_TOKENS",
    "PATCH_PX",
    "Architecture",
    "llava_config",
    "vision_config",
    "vision_tower",
]

IMAGE_SIDE_PX = 128
PATCH_PX = 16
NUM_IMAGE_TOKENS = (IMAGE_SIDE_PX // PATCH_PX) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes of one embedded MLLM.

    Attributes:
        tower: ``vit``, patches embedded by one linear map as in LLaVA's own CLIP, or ``levit``, a
            convolutional stem before attention (Graham et al. 2021), which learns from far fewer
            images (Xiao et al. 2021) and gives an attacker far less.
        vision_width: Channels of the tower; heads have 32.
        vision_depth: Its blocks.
        text_width: Channels of the language model; heads have 32.
        text_depth: Its blocks.
    """

    tower: Literal["vit", "levit"]
    vision_width: int
    vision_depth: int
    text_width: int
    text_depth: int

    @property
    def feature_select_strategy(self) -> Literal["default", "full"]:
        """LLaVA's word for the tokens it reads: all but a ViT's class token, or all."""
        return "default" if self.tower == "vit" else "full"


ARCHITECTURES: dict[str, Architecture] = {
    "vit": Architecture(
        tower="vit", vision_width=256, vision_depth=6, text_width=192, text_depth=4
    ),
    "levit": Architecture(
        tower="levit", vision_width=256, vision_depth=6, text_width=192, text_depth=4
    ),
    "small-vit": Architecture(
        tower="vit", vision_width=192, vision_depth=4, text_width=160, text_depth=4
    ),
    "small-levit": Architecture(
        tower="levit", vision_width=192, vision_depth=4, text_width=160, text_depth=4
    ),
}
"""The small ones answer well enough to be the MLLM that no pair is ever made on."""


def vision_config(architecture: Architecture) -> CLIPVisionConfig | LevitConfig:
    """The tower's configuration: 128 px in, 64 patch features out."""
    width, depth = architecture.vision_width, architecture.vision_depth
    if architecture.tower == "vit":
        return CLIPVisionConfig(
            image_size=IMAGE_SIDE_PX,
            patch_size=PATCH_PX,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=width // 32,
            hidden_act="gelu",
        )
    config = LevitConfig(
        image_size=IMAGE_SIDE_PX,
        hidden_sizes=[width, width],
        depths=[depth],
        num_attention_heads=[width // 32],
        key_dim=[32],
        attention_ratio=[1],
        mlp_ratio=[4],
    )
    config.down_ops = [[""]]  # the only stage is not followed by a subsampling
    config.hidden_size = width  # where LLaVA's projector looks for the width
    return config


def vision_tower(architecture: Architecture) -> Any:
    """A tower of its own, to be trained before the language model.

    Its ``last_hidden_state`` is (B, 64 + 1, C) for a ViT, the class token first, else (B, 64, C).
    """
    return AutoModel.from_config(vision_config(architecture))


def llava_config(processor: Any, architecture: Architecture) -> LlavaConfig:
    """The configuration of the whole model, for the tokens of ``processor``."""
    tokenizer, width = processor.tokenizer, architecture.text_width
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=architecture.text_depth,
        num_attention_heads=width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=vision_config(architecture),
        text_config=text,
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy=architecture.feature_select_strategy,
        image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
