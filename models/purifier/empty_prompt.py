"""The embedding of the empty prompt: what a latent network's cross attention reads."""

from __future__ import annotations

from typing import Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

__all__ = ["EmptyPrompt"]


class EmptyPrompt(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """One constant, kept as a component so that no text encoder is needed to purify.

    Attributes:
        embedding: (1, num_tokens, width).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, num_tokens: int = 77, width: int = 768) -> None:
        """An embedding of zeros: of a network that never read a prompt.

        Args:
            num_tokens: Length of the padded prompt.
            width: Of one token, the network's ``cross_attention_dim``.
        """
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, num_tokens, width), requires_grad=False)

    @classmethod
    def holding(cls, embedding: Tensor) -> Self:
        """The embedding (1, num_tokens, width) that a text encoder gave."""
        prompt: Self = cls(*embedding.shape[1:])
        prompt.embedding.data = embedding.detach().clone()
        return prompt

    def forward(self, num_images: int) -> Tensor:
        """(num_images, num_tokens, width): the embedding, once an image."""
        repeated: Tensor = self.embedding.expand(num_images, -1, -1)
        return repeated
