"""The purifier of T1's attacker, from where the command line says that it lies."""

from __future__ import annotations

from pathlib import Path

from codefend.lab.attacks.adaptive import surrogate_forward
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.evaluate.tiers.bench import Surrogate

__all__ = ["load_surrogate"]


def load_surrogate(
    directory: Path, device: str, largest_noise_level: float = 0.0
) -> tuple[Surrogate, str]:
    """The attacker's purifier, and the hash of its weights.

    Args:
        directory: of the pipeline.
        device: torch device.
        largest_noise_level: up to which its noise is drawn; the pipeline's own level where 0.

    Raises:
        LabError: where the directory holds no pipeline.
    """
    pipeline, sha256 = load_purifier(directory, device=device)
    largest = largest_noise_level or pipeline.config.noise_level
    setting = f"largest_noise_level={largest:g} weights={sha256[:12]}"
    return Surrogate(setting, surrogate_forward(pipeline, largest_noise_level=largest)), sha256
