"""LoRA adapters of a latent purifier: put into a network, saved, found again, and fused.

A directory of adapters is what ``peft`` saves (``adapter_config.json``,
``adapter_model.safetensors``), beside it ``purifier.json`` with how they are served, and
``empty_prompt/``, so that no text encoder is needed then. ``peft`` is imported only where there are
adapters.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import snapshot_download

from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.latent import LatentPurificationPipeline

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = [
    "AdapterSettings",
    "Adapters",
    "attach_adapters",
    "find_adapters",
    "fuse_adapters",
    "is_adapters",
    "save_adapters",
]

_CONFIG, _WEIGHTS, _SETTINGS = "adapter_config.json", "adapter_model.safetensors", "purifier.json"
_PROMPT = "empty_prompt"
_FILES = [_CONFIG, _WEIGHTS, _SETTINGS, f"{_PROMPT}/*.json", f"{_PROMPT}/*.safetensors"]

# The list of LCM-LoRA (Luo et al. 2023b), and the first and the last convolution: what an attack
# left in a latent is foreign to all that lies between.
_TARGETS = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv_in",
    "conv_out",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """How a base with these adapters is served.

    Attributes:
        noise_level: t*, a share of the schedule.
        num_steps: Denoising steps.
        name: What responses and reports call it.
        version: Changes with every training.
        autoencoder: In whose latents they were trained, where not the base's own.
    """

    noise_level: float
    num_steps: int = 1
    name: str = "latent-purifier"
    version: str = "0"
    autoencoder: str | None = None


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters on disk.

    Attributes:
        folder: Where they lie.
        base: Directory or hub id that they were trained on.
        settings: How they are served; None where whoever trained them did not say.
    """

    folder: Path
    base: str
    settings: AdapterSettings | None

    @property
    def empty_prompt(self) -> EmptyPrompt | None:
        """What the cross attention read in training, where it was kept."""
        folder = self.folder / _PROMPT
        if not folder.is_dir():
            return None
        prompt: EmptyPrompt = EmptyPrompt.from_pretrained(folder, use_safetensors=True)
        return prompt


def attach_adapters(network: UNet2DConditionModel, *, rank: int) -> PeftModel:
    """Puts fresh adapters into ``network``, in place; they alone take gradients.

    Low-rank adaptation (Hu et al. 2022, eq. 3) scaled by 1; they start at zero, so that the
    network computes what it did before.

    Raises:
        ValueError: The rank is below 1.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")
    return get_peft_model(
        network, LoraConfig(r=rank, lora_alpha=rank, target_modules=list(_TARGETS))
    )


def save_adapters(
    adapters: PeftModel,
    folder: Path,
    *,
    base: str,
    settings: AdapterSettings,
    empty_prompt: EmptyPrompt,
) -> None:
    """Writes a directory of adapters.

    Args:
        adapters: Of ``attach_adapters``, trained.
        folder: Made where it is missing.
        base: Directory or hub id that they belong to.
        settings: How they are served.
        empty_prompt: What the cross attention read.
    """
    adapters.peft_config["default"].base_model_name_or_path = (
        str(Path(base).resolve()) if Path(base).exists() else base
    )
    adapters.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").write_text(_card(base, settings), encoding="utf-8")
    (folder / _SETTINGS).write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
    empty_prompt.save_pretrained(folder / _PROMPT, safe_serialization=True)


def _card(base: str, settings: AdapterSettings) -> str:
    """In place of the questionnaire that ``peft`` leaves."""
    return (
        f"# {settings.name} {settings.version}\n\n"
        f"LoRA adapters for a latent diffusion purifier (CoDefend, arXiv 2510.11096) on `{base}`, "
        f"served at t* = {settings.noise_level:g} of the schedule, steps: {settings.num_steps}.\n"
    )


def is_adapters(source: str | Path) -> bool:
    """Whether ``source`` is a directory of adapters rather than of a pipeline."""
    return (Path(source) / _CONFIG).is_file()


def find_adapters(source: str | Path) -> Adapters:
    """The adapters in a directory, or from a hub, of which only known files are fetched.

    Raises:
        FileNotFoundError: There are none, or they are no safetensors.
        OSError: The hub does not have them.
        ValueError: ``purifier.json`` is malformed.
    """
    local = Path(source)
    if local.is_absolute() and not local.exists():
        raise FileNotFoundError(f"there are no adapters at {source}")
    folder = (
        local if local.exists() else Path(snapshot_download(str(source), allow_patterns=_FILES))
    )
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{source} holds no {name}")
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return Adapters(folder, str(config.get("base_model_name_or_path") or ""), _settings(folder))


def _settings(folder: Path) -> AdapterSettings | None:
    path = folder / _SETTINGS
    if not path.is_file():
        return None
    try:
        return AdapterSettings(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"malformed {path}: {error}") from error


def fuse_adapters(pipeline: LatentPurificationPipeline, adapters: Adapters) -> None:
    """Adds the adapters' products to the network's weights: purifying then costs nothing more.

    Args:
        pipeline: Of single precision, in which the sums are taken; it gets their settings, too.
        adapters: For a network of this shape.

    Raises:
        ValueError: They fit another network, or break it with numbers that are not finite.
    """
    from peft import PeftModel

    try:
        joined = PeftModel.from_pretrained(pipeline.unet, adapters.folder)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{adapters.folder} does not fit this base: {error}") from error
    with torch.no_grad():
        pipeline.unet = joined.merge_and_unload(safe_merge=True)
    if adapters.settings is not None:
        served = asdict(adapters.settings)
        del served["autoencoder"]
        pipeline.register_to_config(**served)
