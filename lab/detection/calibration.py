"""Calibration: a detector's scores of clean images, kept in its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from codefend.lab.detection.scoring import Scorer
from codefend.models.detector.calibration import clean_quantiles
from codefend.models.detector.network import SuspicionDetector

__all__ = ["calibrate", "save_detector"]


def calibrate(scorer: Scorer, *groups: Sequence[np.ndarray], seed: int = 0) -> None:
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
