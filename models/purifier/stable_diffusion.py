"""From Stable Diffusion, as ``diffusers`` saves it, to the parts of a latent purifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel

from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_step import Autoencoder

__all__ = ["load_autoencoder", "load_stable_diffusion"]

_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
_OPTIONS: dict[str, Any] = {"use_safetensors": True, "torch_dtype": torch.float32}


def load_stable_diffusion(
    source: str | Path,
    index: Mapping[str, Any],
    *,
    autoencoder: Autoencoder | None = None,
    empty_prompt: EmptyPrompt | None = None,
) -> LatentPurificationPipeline:
    """The network, schedule and autoencoder of ``source``, in single precision.

    Args:
        source: Directory or hub id with ``unet/``, ``vae/`` and ``scheduler/``.
        index: Its ``model_index.json``.
        autoencoder: In place of its own.
        empty_prompt: Where it is known; else the text encoder of ``source`` is asked once.

    Raises:
        OSError: A part is missing, or is no safetensors.
        ValueError: It is no pipeline of a kind that can purify.
    """
    if _class_of(index, "unet") != UNet2DConditionModel.__name__:
        raise ValueError(f"{source} is neither a purifier nor Stable Diffusion")
    network = UNet2DConditionModel.from_pretrained(source, subfolder="unet", **_OPTIONS)
    if network.config.addition_embed_type is not None:
        raise ValueError(f"{source} needs more than a prompt (as SDXL does): not supported")
    return LatentPurificationPipeline(
        autoencoder or load_autoencoder(source, subfolder="vae"),
        network,
        DDPMScheduler.from_pretrained(source, subfolder="scheduler"),
        empty_prompt or _ask_text_encoder(source, index),
        name=Path(source).name,
    )


def load_autoencoder(source: str | Path, *, subfolder: str | None = None) -> Autoencoder:
    """A full or a tiny autoencoder, in single precision, by what its configuration says it is.

    Raises:
        OSError: There is none, or it is no safetensors.
        ValueError: It is of another class.
    """
    config = AutoencoderKL.load_config(source, subfolder=subfolder)
    known = _AUTOENCODERS.get(config["_class_name"])
    if known is None:
        raise ValueError(f"{source} holds no {' or '.join(_AUTOENCODERS)}")
    loaded: Autoencoder = known.from_pretrained(source, subfolder=subfolder, **_OPTIONS)
    return loaded


def _ask_text_encoder(source: str | Path, index: Mapping[str, Any]) -> EmptyPrompt:
    """The last hidden states of the empty prompt: what Stable Diffusion calls unconditional."""
    if _class_of(index, "text_encoder") is None:
        raise ValueError(f"{source} has no text encoder to ask for the empty prompt")
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(
        source, subfolder="text_encoder", use_safetensors=True, dtype=torch.float32
    )
    tokens = tokenizer(
        "",
        padding="max_length",
        max_length=min(tokenizer.model_max_length, encoder.config.max_position_embeddings),
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        embedding = encoder(tokens.input_ids).last_hidden_state
    prompt: EmptyPrompt = EmptyPrompt.holding(embedding)
    return prompt


def _class_of(index: Mapping[str, Any], component: str) -> str | None:
    """The class of a component; None where the pipeline goes without."""
    entry = index.get(component)
    return entry[1] if isinstance(entry, list | tuple) else None
