"""The conditions of a report: undefended, ours whole and in parts, each baseline at its best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.baselines.grid import Trial, baseline_grid, diffpure_grid, purifier_grid
from codefend.lab.baselines.purifiers import load_purifier, purifying, round_trip
from codefend.lab.errors import LabError
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.evaluate.tune import SettingChooser
from codefend.models.prompts.templates import render

__all__ = ["CONDITIONS", "USUAL_CONDITIONS", "Roster", "served_prompt"]

CONDITIONS = (
    "none",
    "codefend",
    "purifier",
    "prompt",
    "diffpure",
    "autoencoder",
    "jpeg",
    "bit_depth",
    "blur",
    "median",
)
USUAL_CONDITIONS = tuple(name for name in CONDITIONS if name != "autoencoder")
"""Without what only a latent base has."""

CLEAN_SHARE = 0.97  # of the undefended clean accuracy, what our setting must keep


def served_prompt(task: str, question: str | None) -> str:
    """What the service asks: the shipped template around the question."""
    return render(task, question)


@dataclass(slots=True)
class Roster:
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
        if {"codefend", "purifier"} & set(wanted):
            defences["purifier"] = self._ours(chooser if tune_purifier else None)
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

    def _ours(self, chooser: SettingChooser | None) -> Defence:
        pipeline, self.weights["purifier"] = load_purifier(self.purifier, device=self.device)
        sha256 = self.weights["purifier"]
        if chooser is None:
            return purifying("purifier", pipeline, sha256)
        grid = purifier_grid(pipeline, sha256)
        best, trials = chooser.choose(grid, clean_share=CLEAN_SHARE)
        self.trials += trials
        return best["purifier"]
