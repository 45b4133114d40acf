"""A model that is attacked or questioned, with its processor; every attack and score goes here."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from codefend.lab.errors import no_weights
from codefend.lab.victims.preprocess import Preprocess
from codefend.models.manifest import weights_sha256
from codefend.models.mllm.stills import load_processor
from codefend.models.packed import unpacked

__all__ = ["Victim", "accepts", "load_victim", "shared_features", "use_eager_attention"]


def use_eager_attention(model: Any) -> None:
    """Lets the language model of a LLaVA compute its attention in plain matrix products.

    Packed dialogues bring a mask of their own. Under one, the backward of the fused kernel is the
    slower on CPU, and some kernels (flash attention) take no mask at all. The result is the same.

    Args:
        model: a ``transformers`` model whose configuration has a ``text_config``.
    """
    model.set_attn_implementation({"text_config": "eager"})


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


@dataclass(frozen=True, slots=True)
class Victim:
    """A frozen image-text-to-text model seen from its pixels.

    Attributes:
        name: what reports call it.
        model: a stock ``transformers`` model; its parameters take no gradients.
        processor: its stock processor.
        preprocess: the processor's image side, differentiably.
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
            ValueError: where the processor's preprocessing is not known differentiably.
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

    def image_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the model takes of images (B, 3, H, W) float in [0, 1], differentiably.

        Returns:
            ``pixel_values`` in the model's precision, and its companions, by the stock names.
        """
        inputs = self.preprocess.inputs(images.to(self.device))
        return inputs | {"pixel_values": inputs["pixel_values"].to(self.dtype)}

    def pixel_values(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to the model's input, differentiably."""
        return self.image_inputs(images)["pixel_values"]

    def image_tokens(self, images: Tensor) -> Tensor:
        """What the language model sees of ``images``: (B, num_tokens, D), differentiable."""
        return torch.stack(tuple(self._encode(self.image_inputs(images)).pooler_output))

    def sequence_inputs(self, images: Tensor, owners: Sequence[int]) -> dict[str, Any]:
        """What ``forward`` takes beside the text, for sequences about ``images``.

        The vision tower sees each image once, wherever the model can be handed its features.

        Args:
            images: (B, 3, H, W) float in [0, 1].
            owners: for each sequence, the image that it is about.

        Returns:
            Keyword arguments, differentiable in ``images``.
        """
        owners = list(owners)
        if not accepts(self.model, "mm_encoder_outputs"):
            return dict(self.image_inputs(images[owners]))
        inputs = self.image_inputs(images)
        features = self._encode(inputs).pooler_output
        companions = {name: inputs[name][owners] for name in inputs if name != "pixel_values"}
        return companions | {"mm_encoder_outputs": shared_features(features, owners)}

    def encoder_features(self, images: Tensor) -> Tensor:
        """The vision tower's patch features that the projector reads: (B, num_patches, D)."""
        outputs = self._encode(self.image_inputs(images))
        config = self.model.config
        layer = getattr(config, "vision_feature_layer", None)
        if layer is None:  # the projector reads the last one, of all tiles of an image
            last: Tensor = outputs.last_hidden_state
            return last.reshape(len(images), -1, last.shape[-1])
        layers = [layer] if isinstance(layer, int) else layer
        features = torch.cat([outputs.hidden_states[index] for index in layers], dim=-1)
        return features[:, 1:] if config.vision_feature_select_strategy == "default" else features

    def _encode(self, inputs: dict[str, Tensor]) -> Any:
        return self.model.get_image_features(**inputs)


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
        ValueError: where its processor's preprocessing is not known differentiably.
    """
    try:
        readable = unpacked(source)
        model = AutoModelForImageTextToText.from_pretrained(readable, dtype=dtype)
        processor = load_processor(source, model.config.model_type)
    except OSError as error:
        raise no_weights(source, "no model", f"its loader says: {error}") from error
    if device == "cpu":
        _settle_on_cpu(model)
    return Victim.wrap(
        model.to(device), processor, name=Path(source).name, sha256=weights_sha256(Path(source))
    )


def _settle_on_cpu(model: Any) -> None:
    """What makes gradients in the image fast there (measured at 128 px: 72 images/s, not 38)."""
    if isinstance(model, LlavaForConditionalGeneration):
        use_eager_attention(model)
        model.to(memory_format=torch.channels_last)


def _hash_parameters(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
