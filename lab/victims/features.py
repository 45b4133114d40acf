"""Image features computed once and handed to as many sequences as ask about the image."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["accepts", "shared_features"]


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's ``forward`` has a parameter of that name."""
    return argument in inspect.signature(model.forward).parameters


def shared_features(features: Sequence[Tensor], owners: Sequence[int]) -> dict[str, Any]:
    """What ``forward`` takes as ``mm_encoder_outputs``.

    Args:
        features: (num_tokens, D) for each image.
        owners: for each sequence, the image that it is about.
    """
    return {"image": BaseModelOutputWithPooling(pooler_output=[features[row] for row in owners])}
