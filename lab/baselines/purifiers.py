"""Diffusion purifiers as defences: ours as served, and DiffPure with the base before fine-tuning.

DiffPure: Nie et al. 2022, "Diffusion Models for Adversarial Purification", equations 4 to 6: noise
to a level t*, then the reverse process in several steps.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from lab.baselines.defence import Defence
from lab.errors import LabError
from lab.victims.fingerprint import weights_sha256
from models.purifier.pipeline import PurificationPipeline

__all__ = ["load_purifier", "purifying"]


def load_purifier(directory: Path, *, device: str = "cpu") -> tuple[PurificationPipeline, str]:
    """A pipeline in single precision, and the hash of its weights.

    Raises:
        LabError: where the directory holds no pipeline.
    """
    if not (directory / "model_index.json").exists():
        raise LabError(f"{directory} holds no purifier; make it with: codefend-lab train")
    pipeline = PurificationPipeline.from_pretrained(directory)
    pipeline.unet.to(torch.float32)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, weights_sha256(directory)


def purifying(
    name: str,
    pipeline: PurificationPipeline,
    sha256: str,
    *,
    noise_level: float | None = None,
    num_steps: int | None = None,
) -> Defence:
    """Purification with fresh noise.

    Args:
        name: what reports call it: ``purifier`` or ``diffpure``.
        pipeline: the purifier.
        sha256: of its weights.
        noise_level: standard deviation of the noise; as served where None.
        num_steps: denoising steps; as served where None.
    """
    level = pipeline.config.noise_level if noise_level is None else noise_level
    steps = pipeline.config.num_steps if num_steps is None else num_steps

    def apply(images: Tensor, generator: Generator) -> Tensor:
        device = pipeline.device
        # The noise comes from a generator on the pipeline's device, seeded by ours.
        seed = int(torch.randint(2**62, (), generator=generator))
        noise = torch.Generator(device).manual_seed(seed)
        purified = pipeline.purify(images.to(device), noise, num_steps=steps, noise_level=level)
        return purified.to(images.device)

    setting = f"noise_level={level:g} num_steps={steps} weights={sha256[:12]}"
    return Defence(name, setting, apply, is_random=True)
