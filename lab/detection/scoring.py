"""A detector behind its purifier: its scores of uploads, its calibration, and what it notices.

What it notices is told by AUROC, by the rate caught at 1 % false alarms, and by the rate flagged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from codefend.lab.baselines.defence import Defence, chosen, defend
from codefend.lab.errors import LabError
from codefend.lab.evaluate.uploads import Uploads
from codefend.lab.experiments.report import Row, cell, radius, rows_under
from codefend.lab.experiments.statistics import Estimate, Floats, Measure, wilson
from codefend.lab.experiments.table import Table, pivot
from codefend.lab.progress import progress
from codefend.models.detector.calibration import (
    clean_quantiles,
    is_flagged,
    scores_of,
    suspicions_of,
)
from codefend.models.detector.network import SuspicionDetector
from codefend.models.manifest import weights_sha256
from codefend.models.quantise import dequantise, quantise

__all__ = [
    "SuspicionScorer",
    "auroc",
    "calibrate",
    "detection_rows",
    "detection_table",
    "load_detector",
    "logged_suspicions",
    "recalibrate",
    "save_detector",
]

FALSE_ALARMS = 0.01
_EVADED = 0.5
"""How suspicious he who evades still is, as a share of the suspicion that gives him away: as half
of all clean images are where that is nearly 1."""
_NUM_RESAMPLES = 1000


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
        sha256: of the detector's weights.
    """

    detector: SuspicionDetector
    purifier: Defence
    sha256: str = ""

    @classmethod
    def load(cls, directory: Path, purifier: Defence, *, device: str = "cpu") -> Self:
        """A detector of ``load_detector`` behind a purifier on the same device."""
        detector, sha256 = load_detector(directory, device=device)
        return cls(detector, purifier, sha256)

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

    def choice(self, above: float, mild: Defence, harsh: Defence) -> Defence:
        """A defence that is ``harsh`` to images whose suspicion is above ``above``, in (0, 1)."""
        return chosen(
            partial(self._is_above, self._score_at(above)),
            partial(self.excess, above=above),
            mild,
            harsh,
            setting=f"suspicion>{above:g} weights={self.sha256[:12]}",
        )

    def excess(self, images: Tensor, generator: Generator, *, above: float) -> Tensor:
        """By how much uploads score more than who safely evades ``above``, with its gradient.

        A hinge, as in Carlini & Wagner 2017, "Adversarial Examples Are Not Easily Detected",
        section 3: what passes as clean already is not made cleaner at the attack's expense.

        Args:
            images: (B, 3, H, W) float in [0, 1].
            generator: of the purifier's noise.
            above: the suspicion that gives an upload away.

        Returns:
            (B,) at least 0.
        """
        purified = self.purifier.gradient_paths["exact"](images, generator)
        return functional.relu(self.detector(images, purified) - self._score_at(_EVADED * above))

    def _is_above(self, limit: float, images: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            purified = dequantise(quantise(self.purifier.apply(images, generator)), images.dtype)
            scores: Tensor = self.detector(images, purified)
        return scores > limit

    def _score_at(self, suspicion: float) -> float:
        return float(scores_of([suspicion], self.detector.config.clean_quantiles)[0])


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


def recalibrate(detector: SuspicionDetector, suspicions: Sequence[float]) -> None:
    """Sets the detector's quantiles by suspicions that itself had of clean images.

    Raises:
        ValueError: there are fewer than 100, or over 1 % of them are beyond its calibration.
    """
    scores = scores_of(suspicions, detector.config.clean_quantiles)
    detector.register_to_config(clean_quantiles=clean_quantiles(scores))


def logged_suspicions(log: Path, most_px: int) -> list[float]:
    """Suspicions of the images of a service's log, each file once.

    Args:
        log: JSON lines, as `deploy/observability/events.schema.json` has them; others are skipped.
        most_px: longest side of an image that was purified in one piece; larger ones are skipped.
    """
    found: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        _, brace, rest = line.partition("{")
        try:
            event = json.loads(brace + rest)
        except ValueError:
            continue
        is_image = isinstance(event, dict) and event.get("message") == "image"
        if not is_image or event.get("suspicion") is None:
            continue
        if max(event["width"], event["height"]) <= most_px:
            found[event["sha256"]] = float(event["suspicion"])
    return list(found.values())


def save_detector(detector: SuspicionDetector, directory: Path) -> None:
    """Saves a detector in half precision, with its configuration."""
    detector.to(torch.float16).save_pretrained(directory)
    detector.to(torch.float32)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return dequantise(torch.from_numpy(np.array(pixels))[None])


def detection_rows(
    samples: Sequence[Uploads], scorer: SuspicionScorer, *, victim: str, seeds: int
) -> list[Row]:
    """Rows of task None: ``flagged`` of every sample, ``auroc`` and ``tpr_at_1fpr`` of attacks.

    ``flagged`` is at the threshold that ships; ``tpr_at_1fpr`` at that which flags 1 % of the very
    clean images of the sample. Means over seeds of the purifier's noise.

    Args:
        samples: what is scored.
        scorer: the detector that is asked.
        victim: name of the model that attacks are on.
        seeds: how often the purifier's noise is drawn.
    """
    rows: list[Row] = []
    for sample in progress(samples, desc="detection", unit="sample"):
        attacked = _scored(scorer, sample.images, seeds)
        quantiles = scorer.detector.config.clean_quantiles
        flags = [[is_flagged(s) for s in suspicions_of(scores, quantiles)] for scores in attacked]
        measures: list[Measure] = [
            (None, "flagged", wilson(float(np.mean(flags)), len(sample.images)))
        ]
        if len(sample.clean):
            clean = _scored(scorer, sample.clean, seeds)
            for metric, statistic in _STATISTICS.items():
                measures.append((None, metric, _estimate(statistic, attacked, clean)))
        rows += rows_under(sample.threat, measures, defence="codefend", victim=victim, seeds=seeds)
    return rows


def auroc(attacked: Floats, clean: Floats) -> float:
    """The probability that an attacked image scores above a clean one; ties count half.

    Mann & Whitney 1947, "On a Test of Whether one of Two Random Variables Is…".
    """
    rising = np.sort(clean)
    below = [np.searchsorted(rising, attacked, side) for side in ("left", "right")]
    return float(np.mean(below) / len(clean))


def _caught(attacked: Floats, clean: Floats) -> float:
    return float((attacked > np.quantile(clean, 1 - FALSE_ALARMS)).mean())


_STATISTICS: Mapping[str, Callable[[Floats, Floats], float]] = {
    "auroc": auroc,
    "tpr_at_1fpr": _caught,
}


def _scored(scorer: SuspicionScorer, images: Sequence[np.ndarray], seeds: int) -> Floats:
    """(S, N), a row for each seed."""
    return np.stack([scorer.scores(images, seed=seed) for seed in range(seeds)])


def _estimate(
    statistic: Callable[[Floats, Floats], float], attacked: Floats, clean: Floats
) -> Estimate:
    """Mean over seeds; whole scenes are drawn, each clean image with its attacked one."""
    num = attacked.shape[1]
    everything = np.arange(num)

    def mean_of(rows: NDArray[np.intp]) -> float:
        pairs = zip(attacked[:, rows], clean[:, rows], strict=True)
        return float(np.mean([statistic(*pair) for pair in pairs]))

    rng = np.random.default_rng(0)
    resampled = [mean_of(rng.choice(everything, num)) for _ in range(_NUM_RESAMPLES)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = mean_of(everything)
    return Estimate(value, min(value, float(low)), max(value, float(high)), num)


def detection_table(rows: Sequence[Row]) -> str:
    """One line for each kind of uploads: AUROC, rate caught at 1 % false alarms, rate flagged."""

    def kind_of(row: Row) -> tuple[str, str, bool, float]:
        return row.tier, row.attack, row.targeted, row.epsilon

    lines = []
    for own in pivot(rows, kind_of, lambda row: row.metric).values():
        flagged = own["flagged"]
        name = f"{flagged.attack}, targeted" if flagged.targeted else flagged.attack
        about = ["", "", ""]
        if "auroc" in own:
            where = radius(flagged.epsilon) if flagged.epsilon < 1 else "its own"
            about = [flagged.family, "yes" if flagged.held_out else "no", where]
        figures = [cell(own.get(metric)) for metric in ("auroc", "tpr_at_1fpr", "flagged")]
        lines.append([flagged.tier, name, *about, *figures, str(flagged.n)])
    about = ["tier", "images", "family", "held out", "ε"]
    return Table([*about, "AUROC", "caught at 1 %", "flagged", "n"], lines).markdown()
