"""Which attention a model computes under a mask of our own; loading and training choose it here."""

from __future__ import annotations

from typing import Any

__all__ = ["use_eager_attention"]


def use_eager_attention(model: Any) -> None:
    """Lets the language model of a LLaVA compute its attention in plain matrix products.

    Packed dialogues bring a mask of their own. Under one, the backward of the fused kernel is the
    slower on CPU, and some kernels (flash attention) take no mask at all. The result is the same.

    Args:
        model: a ``transformers`` model whose configuration has a ``text_config``.
    """
    model.set_attn_implementation({"text_config": "eager"})
