"""Tiny models of other families, made from their configurations, with stock processors."""

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from codefend.models.mllm.architecture import ARCHITECTURES
from codefend.models.mllm.processor import build_processor
from codefend.models.mllm.stills import StillQwen2VLProcessor

CORPUS = ("what is at the top left?", "describe the image.", "a red car to the left of a cat")
TEMPLATE = """\
{%- for message in messages -%}
{{- message['role'] | capitalize }}:
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}IMAGE{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- if message['role'] == 'assistant' -%}<eos>{%- endif -%}{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}Assistant:{%- endif -%}
"""
ROWS_AND_COLUMNS = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
TILE_TOKENS = [
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *ROWS_AND_COLUMNS,
]
PATCH_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def _tokenizer(tokens):
    tokenizer = build_processor(CORPUS, ARCHITECTURES["vit"], vocab_size=300).tokenizer
    tokenizer.add_tokens(tokens, special_tokens=True)
    return tokenizer


def tile_processor(image_processor):
    return Idefics3Processor(
        image_processor(size={"longest_edge": 96}, max_image_size={"longest_edge": 32}),
        _tokenizer(TILE_TOKENS),
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )


def _tiles(image_processor, config_class, model_class):
    processor = tile_processor(image_processor)
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = config_class(
        text_config=text,
        vision_config=vision,
        scale_factor=2,
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model_class(config), processor


def _patches(config_class, model_class, vision):
    tokenizer = _tokenizer(PATCH_TOKENS)
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    )
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = StillQwen2VLProcessor(image_processor, tokenizer, chat_template=template)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    starts, ends, image, video = tokenizer.convert_tokens_to_ids(PATCH_TOKENS)
    config = config_class(
        text_config=text,
        vision_config={"depth": 1, "patch_size": 8, **vision},
        vision_start_token_id=starts,
        vision_end_token_id=ends,
        image_token_id=image,
        video_token_id=video,
    )
    return model_class(config), processor


def build_family(family):
    if family == "idefics3":
        return _tiles(Idefics3ImageProcessorPil, Idefics3Config, Idefics3ForConditionalGeneration)
    if family == "smolvlm":
        return _tiles(SmolVLMImageProcessorPil, SmolVLMConfig, SmolVLMForConditionalGeneration)
    if family == "qwen2_vl":
        vision = {"embed_dim": 32, "hidden_size": 32, "num_heads": 2}
        return _patches(Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision)
    vision = {
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "window_size": 32,
        "fullatt_block_indexes": [0],
    }
    return _patches(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, vision)
