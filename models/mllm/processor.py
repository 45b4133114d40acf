"""The embedded MLLM's processor: lower-case byte-level tokens, SigLIP pixels, a chat template."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from codefend.models.mllm.architecture import IMAGE_SIDE_PX, PATCH_PX, Architecture

__all__ = ["build_processor"]

_SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
}
_ROLES = ("<system>", "<user>", "<assistant>")
_CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
<{{ message['role'] }}>
{%- if message['content'] is string -%}
{{ ' ' + message['content'] | trim }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}<image>{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ ' ' + part['text'] | trim }}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<assistant>{%- endif -%}
"""


def build_processor(
    corpus: Iterable[str], architecture: Architecture, *, vocab_size: int = 900
) -> LlavaProcessor:
    """Fit the tokenizer on ``corpus``; any other text still becomes bytes, never an unknown token.

    Args:
        corpus: Texts that the model will read and write.
        architecture: Whose tower reads the image.
        vocab_size: Most tokens, 256 bytes and the special tokens included.
    """
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_SPECIAL.values(), "<image>", *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **_SPECIAL,
        additional_special_tokens=["<image>", *_ROLES],
        padding_side="left",
        model_max_length=512,
    )
    side = {"height": IMAGE_SIDE_PX, "width": IMAGE_SIDE_PX}
    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size=side, resample=3),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        num_additional_image_tokens=int(architecture.tower == "vit"),  # its class token
        vision_feature_select_strategy=architecture.feature_select_strategy,
        chat_template=_CHAT_TEMPLATE,
    )
