"""One way to load a purifier of any kind, for the service and the laboratory alike.

The class follows from ``model_index.json``; only safetensors are ever read. Stable Diffusion, as
``diffusers`` saves it, becomes the parts of a latent purifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    DiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn

from codefend.models.packed import unpacked
from codefend.models.purifier.adapters import Adapters, find_adapters, fuse_adapters, is_adapters
from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.latent_step import Autoencoder
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.purifier import Purifier

__all__ = [
    "load_latent_purifier",
    "load_purifier",
]


_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
_OPTIONS: dict[str, Any] = {"use_safetensors": True, "torch_dtype": torch.float32}


def _load_stable_diffusion(
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
        autoencoder or _load_autoencoder(source, subfolder="vae"),
        network,
        DDPMScheduler.from_pretrained(source, subfolder="scheduler"),
        empty_prompt or _ask_text_encoder(source, index),
        name=Path(source).name,
    )


def _load_autoencoder(source: str | Path, *, subfolder: str | None = None) -> Autoencoder:
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


def load_purifier(
    source: str | Path,
    adapters: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Purifier:
    """A purifier from a directory or a hub id, its adapters fused: serving them costs nothing.

    Args:
        source: A pixel purifier, a latent one, or Stable Diffusion as ``diffusers`` saves it; or a
            directory of adapters, which names its base.
        adapters: LoRA adapters for a latent base, as ``codefend-lab train purifier --kind latent``
            leaves them: directory or hub id.
        dtype: Precision of the parameters.

    Raises:
        OSError: There is no such pipeline, or it has no safetensors.
        ValueError: It is of no known kind, or adapters are asked for where none fit.
    """
    source = unpacked(source)
    if adapters is None and not is_adapters(source) and _kind_of(source) == _PIXEL:
        pipeline: Purifier = PurificationPipeline.from_pretrained(
            source, dtype=dtype, use_safetensors=True
        )
        return pipeline
    latent = load_latent_purifier(source, adapters)
    for component in latent.components.values():
        if isinstance(component, nn.Module):
            nn.Module.to(component, dtype)
    return latent


def load_latent_purifier(
    source: str | Path,
    adapters: str | Path | None = None,
    *,
    autoencoder: str | Path | None = None,
) -> LatentPurificationPipeline:
    """As ``load_purifier``, of the latent kind alone, in single precision.

    Args:
        source: A latent purifier, Stable Diffusion, or a directory of adapters.
        adapters: For that base.
        autoencoder: In place of the base's own: directory or hub id.

    Raises:
        OSError: There is no such pipeline, or it has no safetensors.
        ValueError: It is of another kind, or the adapters do not fit.
    """
    source = unpacked(source)
    found = None if adapters is None else find_adapters(adapters)
    if found is None and is_adapters(source):
        found = find_adapters(source)
        source = unpacked(_base_of(found))
    if autoencoder is None and found and found.settings:
        autoencoder = found.settings.autoencoder
    pipeline = _unadapted(source, autoencoder, found)
    if found is not None:
        fuse_adapters(pipeline, found)
    return pipeline


_PIXEL, _LATENT = PurificationPipeline.__name__, LatentPurificationPipeline.__name__


def _unadapted(
    source: str | Path, autoencoder: str | Path | None, adapters: Adapters | None
) -> LatentPurificationPipeline:
    replaced = None if autoencoder is None else _load_autoencoder(autoencoder)
    kind = _kind_of(source)
    if kind == _PIXEL:
        raise ValueError(f"{source} is a pixel purifier; adapters are for latent ones")
    if kind != _LATENT:
        return _load_stable_diffusion(
            source,
            DiffusionPipeline.load_config(source),
            autoencoder=replaced,
            empty_prompt=adapters.empty_prompt if adapters else None,
        )
    others = {} if replaced is None else {"vae": replaced}
    pipeline: LatentPurificationPipeline = LatentPurificationPipeline.from_pretrained(
        source, dtype=torch.float32, use_safetensors=True, **others
    )
    return pipeline


def _base_of(adapters: Adapters) -> str:
    base = Path(adapters.base)
    if not adapters.base or (base.is_absolute() and not base.exists()):
        raise FileNotFoundError(f"the base of {adapters.folder} is not at {adapters.base!r}")
    return adapters.base


def _kind_of(source: str | Path) -> str:
    return str(DiffusionPipeline.load_config(source)["_class_name"])
