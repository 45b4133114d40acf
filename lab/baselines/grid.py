"""The settings from which each defence's best is chosen on validation scenes, and the choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.filters import blur, median
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.errors import LabError
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.purifier import Purifier

__all__ = [
    "Trial",
    "baseline_grid",
    "choose_settings",
    "diffpure_grid",
    "purifier_grid",
    "settings_named",
]


DIFFPURE_NOISE_LEVELS = (0.05, 0.1, 0.15, 0.2, 0.3)
LATENT_NOISE_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)
DIFFPURE_STEPS = (1, 4)
PURIFIER_NOISE_LEVELS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1)


def baseline_grid() -> list[Defence]:
    """Every setting of the defences that have nothing to learn."""
    return [
        *(jpeg(quality) for quality in (10, 20, 30, 40, 50, 75, 90)),
        *(bit_depth(bits) for bits in (1, 2, 3, 4, 5)),
        *(blur(sigma_px) for sigma_px in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)),
        *(median(size_px) for size_px in (3, 5, 7)),
    ]


def diffpure_grid(
    base: Purifier, sha256: str, settings: Sequence[tuple[float, int]] = ()
) -> list[Defence]:
    """DiffPure over noise level and number of reverse steps; over those of its kind where empty."""
    is_latent = isinstance(base, LatentPurificationPipeline)
    levels = LATENT_NOISE_LEVELS if is_latent else DIFFPURE_NOISE_LEVELS
    return [
        purifying("diffpure", base, sha256, noise_level=level, num_steps=steps)
        for level, steps in settings or product(levels, DIFFPURE_STEPS)
    ]


def purifier_grid(pipeline: Purifier, sha256: str) -> list[Defence]:
    """Our purifier over its noise level, for choosing what is served."""
    return [
        purifying("purifier", pipeline, sha256, noise_level=level)
        for level in PURIFIER_NOISE_LEVELS
    ]


def settings_named(text: str, option: str) -> list[tuple[float, int]]:
    """Noise levels and numbers of steps from words such as ``0.03x1,0.05x2``; none of none.

    Raises:
        LabError: for anything else.
    """
    try:
        halves = [word.split("x") for word in text.split(",") if word]
        found = [(float(level), int(steps)) for level, steps in halves]
    except ValueError as error:
        raise LabError(f"{option} takes such as 0.03x1,0.05x2: {error}") from error
    if not all(0 < level <= 1 and steps >= 1 for level, steps in found):
        raise LabError(f"{option}: levels are in (0, 1], steps at least 1; got {text}")
    return found


@dataclass(frozen=True, slots=True)
class Trial:
    """What one setting reached on validation, as fractions of right answers."""

    defence: Defence
    attacked: float
    clean: float


def choose_settings(
    defences: Iterable[Defence],
    score: Callable[[Defence], tuple[float, float]],
    *,
    least_clean: float = 0.0,
) -> tuple[dict[str, Defence], list[Trial]]:
    """Tries every setting and keeps, for each name, the one most accurate under attack.

    Settings less accurate on clean images than ``least_clean`` count only where no other does;
    ties go to the higher clean accuracy.

    Args:
        defences: all settings of all defences.
        score: a setting's accuracy on attacked and on clean validation scenes.
        least_clean: the clean accuracy that a setting must keep.

    Returns:
        The best setting by name, and every trial.
    """
    trials = [Trial(defence, *score(defence)) for defence in defences]

    def rank(trial: Trial) -> tuple[bool, float, float]:
        return trial.clean >= least_clean, trial.attacked, trial.clean

    best: dict[str, Trial] = {}
    for trial in trials:
        name = trial.defence.name
        if name not in best or rank(trial) > rank(best[name]):
            best[name] = trial
    return {name: trial.defence for name, trial in best.items()}, trials
