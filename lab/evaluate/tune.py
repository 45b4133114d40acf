"""Chooses every defence's setting on validation scenes attacked as the test scenes will be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.baselines.grid import Trial, choose_settings
from codefend.lab.evaluate.attacked import AttackedImages
from codefend.lab.evaluate.outcomes import Condition, Interviewer
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.progress import progress
from codefend.lab.victims.answers import is_match
from codefend.lab.victims.victim import Victim

__all__ = ["SettingChooser"]


class SettingChooser:
    """Scores settings on one set of validation scenes, clean and attacked."""

    def __init__(
        self,
        victim: Victim,
        scenes: Sequence[TrueScene],
        attack: AttackConfig,
        out: Path,
        *,
        attacker: Victim | None = None,
    ) -> None:
        """Attacks the scenes, unless that was done before.

        Args:
            victim: who is asked.
            scenes: validation scenes, none of them tested.
            attack: untargeted, as oblivious as the test's.
            out: folder of attacked images and outcomes.
            attacker: whose gradients are used, where not the victim's.
        """
        self._scenes = scenes
        self._clean = [scene.image for scene in scenes]
        self._attacked = AttackedImages(attacker or victim, out / "attacked")(attack, scenes)
        self._interview = Interviewer(victim, out / "outcomes")

    def choose(
        self, defences: Sequence[Defence], *, clean_share: float = 0.0
    ) -> tuple[dict[str, Defence], list[Trial]]:
        """The setting of each name that is most accurate under attack, and every trial.

        Args:
            defences: all settings of all names.
            clean_share: of the undefended clean accuracy, what a setting must keep.
        """
        whole = self._accuracy(NO_DEFENCE, self._clean)
        trials = progress(defences, desc="settings")
        return choose_settings(trials, self._score, least_clean=clean_share * whole)

    def _score(self, defence: Defence) -> tuple[float, float]:
        return self._accuracy(defence, self._attacked), self._accuracy(defence, self._clean)

    def _accuracy(self, defence: Defence, images: list[np.ndarray]) -> float:
        condition = Condition(defence.name, defence)
        outcome = self._interview(condition, images, self._scenes, seed=0, with_captions=False)
        right = [
            is_match(said, question.answer)
            for scene, answers in zip(self._scenes, outcome.answers, strict=True)
            for question, said in zip(scene.questions, answers, strict=True)
        ]
        return float(np.mean(right))
