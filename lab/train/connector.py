"""A language model that others trained, behind a vision tower of ours: LLaVA's recipe, with LoRA.

What it does when it is told something it was not taught here by us; so a prompt that was found on
the embedded MLLMs shows on it whether it holds beyond them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from codefend.lab.errors import LabError
from codefend.models.packed import unpacked

__all__ = ["add_adapters", "connect", "fuse_adapters"]

_IMAGE = "<image>"
_RANK = 16
# ChatML, which the tokenizer's own template writes too, but for texts alone.
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' and SYSTEM -%}
{{ '<|im_start|>system\n' + SYSTEM + '<|im_end|>\n' }}
{%- endif -%}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}<image>{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
_MARKS = ("<|im_start|>", "<|im_end|>")


def connect(
    tower: Path, language_model: str
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Puts a language model behind the vision tower of a LLaVA; what joins them is drawn at random.

    Args:
        tower: Directory of the LLaVA.
        language_model: Directory or hub id of a causal language model that speaks ChatML.

    Raises:
        LabError: There is no such model, or its chats are of another form.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(language_model)
        language = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
    except OSError as error:
        raise LabError(f"no language model in {language_model}: {error}") from error
    if not all(mark in tokenizer.get_vocab() for mark in _MARKS):
        raise LabError(f"{language_model} does not speak ChatML: its tokenizer lacks {_MARKS[0]}")
    readable = unpacked(tower)
    eyes = LlavaForConditionalGeneration.from_pretrained(readable, dtype=torch.float32)
    tokenizer.add_special_tokens({"additional_special_tokens": [_IMAGE]})
    tokenizer.padding_side = "left"
    seen: Any = AutoProcessor.from_pretrained(readable)
    processor = LlavaProcessor(
        image_processor=seen.image_processor,
        tokenizer=tokenizer,
        patch_size=seen.patch_size,
        num_additional_image_tokens=seen.num_additional_image_tokens,
        vision_feature_select_strategy=seen.vision_feature_select_strategy,
        chat_template=_chat_template(tokenizer),
    )
    words = language.resize_token_embeddings(len(tokenizer), mean_resizing=False).weight.data
    words[-1] = words[:-1].mean(0)  # no image is ever read by it, and it is never to be said
    model = LlavaForConditionalGeneration(_config(eyes.config, language.config, processor))
    model.model.vision_tower.load_state_dict(eyes.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config = language.generation_config
    return model, processor


def _config(eyes: LlavaConfig, language: Any, processor: LlavaProcessor) -> LlavaConfig:
    return LlavaConfig(
        vision_config=eyes.vision_config,
        text_config=language,
        image_token_index=processor.image_token_id,
        vision_feature_layer=eyes.vision_feature_layer,
        vision_feature_select_strategy=eyes.vision_feature_select_strategy,
        image_seq_length=eyes.image_seq_length,
        tie_word_embeddings=language.tie_word_embeddings,
    )


def _chat_template(tokenizer: Any) -> str:
    """The tokenizer's own form, its default system prompt included, with places for images."""
    asked = [{"role": "user", "content": "?"}]
    text: str = (
        tokenizer.apply_chat_template(asked, tokenize=False) if tokenizer.chat_template else ""
    )
    system = text.partition("<|im_start|>system\n")[2].partition("<|im_end|>")[0]
    return f"{{%- set SYSTEM = {system!r} -%}}\n{_CHAT_TEMPLATE}"


def add_adapters(model: LlavaForConditionalGeneration) -> None:
    """Leaves what joins tower and language model to be trained, and LoRA adapters of the latter."""
    model.model.vision_tower.requires_grad_(False)
    config = LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules="all-linear")
    model.model.language_model = get_peft_model(model.model.language_model, config)
    model.lm_head.requires_grad_(False)


def fuse_adapters(model: LlavaForConditionalGeneration) -> None:
    """Adds the adapters into the weights that they adapt: a stock LLaVA is left."""
    model.model.language_model = model.model.language_model.merge_and_unload()
