"""A model that is attacked or questioned, with its processor; every attack and score goes here."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
)

from lab.errors import LabError
from lab.victims.fingerprint import weights_sha256
from lab.victims.preprocess import Preprocess

__all__ = ["Victim", "load_victim"]


@dataclass(frozen=True, slots=True)
class Victim:
    """A frozen image-text-to-text model seen from its pixels.

    Attributes:
        name: what reports call it.
        model: a stock ``transformers`` model; its parameters take no gradients.
        processor: its stock processor.
        preprocess: the differentiable twin of the processor's image side.
        sha256: hash of the weights, hexadecimal.
    """

    name: str
    model: Any
    processor: Any
    preprocess: Preprocess
    sha256: str

    @classmethod
    def wrap(cls, model: Any, processor: Any, *, name: str, sha256: str = "") -> Victim:
        """Freezes ``model`` and reads its processor's settings.

        Raises:
            ValueError: where the processor does something that has no differentiable twin.
        """
        model.eval().requires_grad_(False)
        preprocess = Preprocess.from_processor(processor.image_processor)
        return cls(name, model, processor, preprocess, sha256 or _hash_parameters(model))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def astype(self, dtype: torch.dtype) -> Victim:
        """A copy in another precision; this victim itself where nothing changes."""
        if dtype == self.dtype:
            return self
        model = copy.deepcopy(self.model).to(dtype)
        for module in model.modules():
            # LeViT keeps its attention biases outside its buffers, in the precision of first use.
            if hasattr(module, "attention_bias_cache"):
                module.attention_bias_cache = {}
        return replace(self, model=model)

    def pixel_values(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to the model's input, differentiably."""
        return self.preprocess(images.to(self.device)).to(self.dtype)

    def image_tokens(self, images: Tensor) -> Tensor:
        """What the language model sees of ``images``: (B, num_tokens, D), differentiable."""
        outputs = self.model.get_image_features(pixel_values=self.pixel_values(images))
        return torch.stack(tuple(outputs.pooler_output))

    def encoder_features(self, images: Tensor) -> Tensor:
        """The vision tower's patch features that the projector reads: (B, num_patches, D)."""
        config = self.model.config
        layer = config.vision_feature_layer
        outputs = self.model.get_image_features(pixel_values=self.pixel_values(images))
        layers = [layer] if isinstance(layer, int) else layer
        features = torch.cat([outputs.hidden_states[index] for index in layers], dim=-1)
        return features[:, 1:] if config.vision_feature_select_strategy == "default" else features


def load_victim(
    source: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Victim:
    """Loads a victim from a directory or a hub id.

    Args:
        source: what ``AutoModelForImageTextToText.from_pretrained`` takes.
        device: torch device.
        dtype: precision of the parameters.

    Raises:
        LabError: where there is no such model.
        ValueError: where its processor has no differentiable twin.
    """
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
        processor = AutoProcessor.from_pretrained(source, backend="pil")
    except OSError as error:
        raise LabError(f"no model in {source}: {error}") from error
    if device == "cpu":
        _settle_on_cpu(model)
    return Victim.wrap(
        model.to(device), processor, name=Path(source).name, sha256=weights_sha256(Path(source))
    )


def _settle_on_cpu(model: Any) -> None:
    """What makes gradients in the image fast there (measured at 128 px: 72 images/s, not 38)."""
    if isinstance(model, LlavaForConditionalGeneration):
        model.set_attn_implementation({"text_config": "eager"})  # under a mask of our own
        model.to(memory_format=torch.channels_last)


def _hash_parameters(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
