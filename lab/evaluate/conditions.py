"""The conditions of a report: undefended, ours whole and in parts, each baseline at its best.

Settings are chosen on validation scenes, attacked as the test scenes will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.baselines.grid import (
    Trial,
    baseline_grid,
    choose_settings,
    diffpure_grid,
    purifier_grid,
)
from codefend.lab.baselines.named import defence_named
from codefend.lab.baselines.purifiers import load_purifier, purifying, round_trip
from codefend.lab.errors import LabError
from codefend.lab.evaluate.data import TrueScene
from codefend.lab.evaluate.outcomes import Condition, VictimResponder
from codefend.lab.evaluate.scores import score
from codefend.lab.evaluate.uploads import Attacker
from codefend.lab.experiments.store import Store
from codefend.lab.progress import progress
from codefend.lab.victims.victim import Victim
from codefend.models.prompts.templates import render
from codefend.models.purifier.purifier import Purifier
from codefend.models.purifier.strengths import Strength

__all__ = [
    "CONDITIONS",
    "USUAL_CONDITIONS",
    "DefenceFactory",
    "SettingChooser",
    "distinct",
    "served_prompt",
]

CONDITIONS = (
    "none",
    "codefend",
    "purifier",
    "light",
    "strong",
    "prompt",
    "diffpure",
    "autoencoder",
    "jpeg",
    "bit_depth",
    "blur",
    "median",
)
_STRENGTHS = tuple(each.value for each in Strength if each is not Strength.STANDARD)
USUAL_CONDITIONS = tuple(name for name in CONDITIONS if name not in {"autoencoder", *_STRENGTHS})
"""Without what only a latent base has, and without the purifier's other strengths."""

CLEAN_SHARE = 0.97  # of the undefended clean accuracy, what our setting must keep


def served_prompt(task: str, question: str | None) -> str:
    """What the service asks: the shipped template around the question."""
    return render(task, question)


class SettingChooser:
    """Scores settings on one set of validation scenes, clean and attacked.

    By right answers, or by CIDEr where the scenes ask for captions alone.
    """

    def __init__(
        self,
        victim: Victim,
        scenes: Sequence[TrueScene],
        attack: AttackConfig,
        out: Path,
        *,
        attacker: Victim | None = None,
        batch_size: int = 32,
        batch_size_asked: int = 256,
    ) -> None:
        """Attacks the scenes, unless that was done before.

        Args:
            victim: who is asked.
            scenes: validation scenes, none of them tested.
            attack: untargeted, as oblivious as the test's.
            out: folder of attacked images and outcomes.
            attacker: whose gradients are used, where not the victim's.
            batch_size: scenes attacked at once.
            batch_size_asked: prompts asked at once.
        """
        self._scenes = scenes
        self._clean = [scene.image for scene in scenes]
        store = Store(out / "attacked")
        attacks = Attacker(attacker or victim, store, batch_size=batch_size)
        self._attacked = attacks.oblivious(attack, scenes)
        self._respond = VictimResponder.within(victim, out, batch_size=batch_size_asked)

    def choose(
        self, defences: Sequence[Defence], *, clean_share: float = 0.0
    ) -> tuple[dict[str, Defence], list[Trial]]:
        """The setting of each name that is most accurate under attack, and every trial.

        Args:
            defences: all settings of all names.
            clean_share: of the undefended clean accuracy, what a setting must keep.
        """
        whole = self._quality(NO_DEFENCE, self._clean)
        trials = progress(defences, desc="settings")
        return choose_settings(trials, self._score, least_clean=clean_share * whole)

    def _score(self, defence: Defence) -> tuple[float, float]:
        return self._quality(defence, self._attacked), self._quality(defence, self._clean)

    def _quality(self, defence: Defence, images: list[np.ndarray]) -> float:
        """The share of right answers; CIDEr where nothing is asked but captions."""
        condition = Condition(defence.name, defence)
        is_asked = any(scene.questions for scene in self._scenes)
        said = self._respond(condition, images, self._scenes, seeds=1, with_captions=not is_asked)
        found = score(said, self._scenes, [scene.captions for scene in self._scenes])
        return float((found.right if is_asked else found.cider).mean())


def distinct(conditions: Sequence[Condition]) -> tuple[list[Condition], list[str]]:
    """Conditions without defences that are another one under a second name, and a note of each.

    `codefend` is `purifier` with the shipped prompt: where that is the question itself, the two are
    one. What defends no image stays: that `prompt` alone changes nothing is a finding.
    """
    kept: list[Condition] = []
    notes: list[str] = []
    for condition in conditions:
        twin = next((other for other in kept if _asks_alike(condition, other)), None)
        if twin is None:
            kept.append(condition)
        else:
            notes.append(
                f"`{condition.name}` is `{twin.name}` here: the same images, asked in the same "
                "words. It has no rows of its own."
            )
    return kept, notes


def _asks_alike(one: Condition, other: Condition) -> bool:
    asked = [("caption", None), ("vqa", "what is it?")]
    is_one = one.defence == other.defence and one.defence is not NO_DEFENCE
    return is_one and all(one.prompt(*words) == other.prompt(*words) for words in asked)


@dataclass(slots=True)
class DefenceFactory:
    """Builds the conditions asked for, and remembers weights and settings for the report.

    Attributes:
        purifier: directory of our purifier.
        base: directory of the network before fine-tuning, for DiffPure and, where it is latent, for
            the bare round trip through its autoencoder.
        device: torch device of both.
        weights: name to sha256 of what was loaded.
        trials: every setting tried on validation.
    """

    purifier: Path
    base: Path
    device: str = "cpu"
    weights: dict[str, str] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    def conditions(
        self, names: Sequence[str], chooser: SettingChooser, *, tune_purifier: bool = False
    ) -> list[Condition]:
        """The conditions of these names, ``none`` first whether named or not.

        Args:
            names: of ``CONDITIONS``.
            chooser: scores settings on validation scenes.
            tune_purifier: whether our noise level too is chosen there, not taken as served.

        Raises:
            LabError: for an unknown name, or missing weights.
        """
        unknown = set(names) - set(CONDITIONS)
        if unknown:
            raise LabError(f"unknown defences: {', '.join(sorted(unknown))}")
        wanted = [name for name in CONDITIONS if name in names]
        defences = self._baselines(wanted, chooser)
        if {"codefend", "purifier", *_STRENGTHS} & set(wanted):
            pipeline, sha256 = load_purifier(self.purifier, device=self.device)
            self.weights["purifier"] = sha256
            defences["purifier"] = self._ours(pipeline, chooser if tune_purifier else None)
            defences |= {
                name: defence_named(f"purifier:{name}", {"purifier": (pipeline, sha256)})
                for name in _STRENGTHS
                if name in wanted
            }
        conditions = [Condition("none", NO_DEFENCE)]
        for name in wanted:
            if name == "codefend":
                conditions.append(Condition(name, defences["purifier"], served_prompt))
            elif name == "prompt":
                conditions.append(Condition(name, NO_DEFENCE, served_prompt))
            elif name != "none":
                conditions.append(Condition(name, defences[name]))
        return conditions

    def _baselines(self, names: Sequence[str], chooser: SettingChooser) -> dict[str, Defence]:
        grid = [defence for defence in baseline_grid() if defence.name in names]
        if {"diffpure", "autoencoder"} & set(names):
            base, sha256 = load_purifier(self.base, device=self.device)
            self.weights["base"] = sha256
            if "diffpure" in names:
                grid += diffpure_grid(base, sha256)
            if "autoencoder" in names:
                grid.append(round_trip(base, sha256))
        best, trials = chooser.choose(grid)
        self.trials += trials
        return best

    def _ours(self, pipeline: Purifier, chooser: SettingChooser | None) -> Defence:
        sha256 = self.weights["purifier"]
        if chooser is None:
            return purifying("purifier", pipeline, sha256)
        grid = purifier_grid(pipeline, sha256)
        best, trials = chooser.choose(grid, clean_share=CLEAN_SHARE)
        self.trials += trials
        return best["purifier"]
