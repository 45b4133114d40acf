"""A detector behind its purifier: scores and suspicions of uploads, and its calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from codefend.lab.baselines.defence import Defence, defend
from codefend.lab.errors import LabError
from codefend.lab.experiments.statistics import Floats
from codefend.models.detector.calibration import clean_quantiles, suspicions_of
from codefend.models.detector.network import SuspicionDetector
from codefend.models.manifest import weights_sha256
from codefend.models.quantise import dequantise

__all__ = ["SuspicionScorer", "calibrate", "load_detector", "save_detector"]


def load_detector(directory: Path, *, device: str = "cpu") -> tuple[SuspicionDetector, str]:
    """A detector in single precision, and the hash of its weights.

    Raises:
        LabError: the directory holds no detector.
    """
    if not (directory / SuspicionDetector.config_name).exists():
        raise LabError(f"{directory} holds no detector; make it with: codefend-lab train detector")
    detector = SuspicionDetector.from_pretrained(directory, torch_dtype=torch.float32)
    detector.requires_grad_(False).eval().to(device)
    return detector, weights_sha256(directory)


@dataclass(frozen=True, slots=True)
class SuspicionScorer:
    """Purifies, then scores what was taken out.

    Attributes:
        detector: on any device.
        purifier: at the setting that is served.
    """

    detector: SuspicionDetector
    purifier: Defence

    @torch.no_grad()
    def scores(self, images: Sequence[np.ndarray], *, seed: int) -> Floats:
        """(N,) scores of uploads, (H, W, 3) uint8 each; ``seed`` is of the purifier's noise."""
        purified = defend(self.purifier, images, seed=seed)
        found = [
            self.detector(*(_tensor(pixels).to(self.detector.device) for pixels in pair)).item()
            for pair in zip(images, purified, strict=True)
        ]
        return np.asarray(found, np.float64)

    def suspicions(self, images: Sequence[np.ndarray], *, seed: int) -> Floats:
        """(N,) in [0, 1], by the detector's own calibration."""
        return suspicions_of(self.scores(images, seed=seed), self.detector.config.clean_quantiles)


def calibrate(scorer: SuspicionScorer, *groups: Sequence[np.ndarray], seed: int = 0) -> None:
    """Sets the detector's quantiles by groups of clean images, (H, W, 3) uint8 each.

    Of several groups the highest of each quantile is kept: a score is as suspicious as in the group
    where such scores are commonest, so that no more than 1 % of any group is flagged.

    Raises:
        ValueError: a group has fewer than 100.
    """
    quantiles = [clean_quantiles(scorer.scores(images, seed=seed)) for images in groups]
    highest = tuple(float(level) for level in np.max(quantiles, axis=0))
    scorer.detector.register_to_config(clean_quantiles=highest)


def save_detector(detector: SuspicionDetector, directory: Path) -> None:
    """Saves a detector in half precision, with its configuration."""
    detector.to(torch.float16).save_pretrained(directory)
    detector.to(torch.float32)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return dequantise(torch.from_numpy(np.array(pixels))[None])
