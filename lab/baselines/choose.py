"""The best setting of each defence on validation scenes, baselines and ours by the same rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from codefend.lab.baselines.defence import Defence

__all__ = ["Trial", "choose_settings"]


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
