"""One way to load a purifier of any kind, for the service and the laboratory alike.

The class follows from ``model_index.json``; only safetensors are ever read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from codefend.models.packed import unpacked
from codefend.models.purifier.adapters import Adapters, find_adapters, fuse_adapters, is_adapters
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.pipeline import PurificationPipeline
from codefend.models.purifier.purifier import Purifier
from codefend.models.purifier.stable_diffusion import load_autoencoder, load_stable_diffusion

__all__ = ["load_latent_purifier", "load_purifier"]


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
    replaced = None if autoencoder is None else load_autoencoder(autoencoder)
    kind = _kind_of(source)
    if kind == _PIXEL:
        raise ValueError(f"{source} is a pixel purifier; adapters are for latent ones")
    if kind != _LATENT:
        return load_stable_diffusion(
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
