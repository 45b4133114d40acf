"""Defences by name and setting, as written on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.filters import blur, median
from codefend.lab.baselines.purifiers import load_purifier, purifying
from codefend.lab.errors import LabError

__all__ = ["DEFAULT_DEFENCES", "FidelityRoster"]

DEFAULT_DEFENCES = "purifier,diffpure=0.15x4,jpeg=50,bit_depth=2,blur=1.5,median=7"
"""The filters at the settings that withstood most on attacked validation scenes
(docs/robustness/report.md)."""

_FILTERS: Mapping[str, Callable[[str], Defence]] = {
    "jpeg": lambda text: jpeg(int(text)),
    "bit_depth": lambda text: bit_depth(int(text)),
    "blur": lambda text: blur(float(text)),
    "median": lambda text: median(int(text)),
}


@dataclass(slots=True)
class FidelityRoster:
    """Makes defences, and remembers the weights they loaded.

    Attributes:
        purifier: directory of our purifier.
        base: directory of DiffPure's network.
        device: torch device of both.
        weights: name to sha256.
    """

    purifier: Path
    base: Path
    device: str = "cpu"
    weights: dict[str, str] = field(default_factory=dict)

    def defences(self, texts: str) -> list[Defence]:
        """Such as ``purifier,diffpure=0.1x4,jpeg=50``; a purifier alone runs as it is saved.

        Args:
            texts: comma-separated names, each with ``=setting``: quality, bits, standard deviation
                or window in pixels; of a purifier the noise level, and the steps after an x.

        Raises:
            LabError: Unknown name, bad or missing setting, missing weights, or a name twice.
        """
        made = [self._defence(*text.strip().partition("=")[::2]) for text in texts.split(",")]
        names = [defence.name for defence in made]
        if len(set(names)) < len(names):
            raise LabError(f"--defences names one twice: {texts}")
        return made

    def _defence(self, name: str, setting: str) -> Defence:
        directories = {"purifier": self.purifier, "diffpure": self.base}
        try:
            if name in directories:
                return self._purifying(name, directories[name], setting)
            return _FILTERS[name](setting)
        except KeyError as error:
            known = ", ".join([*directories, *_FILTERS])
            raise LabError(f"unknown defence {name!r}; there are {known}") from error
        except ValueError as error:
            raise LabError(f"bad setting of {name}: {error}") from error

    def _purifying(self, name: str, directory: Path, setting: str) -> Defence:
        level, _, steps = setting.partition("x")
        noise_level = float(level) if level else None
        num_steps = int(steps) if steps else None
        pipeline, sha256 = load_purifier(directory, device=self.device)
        self.weights[name if name == "purifier" else "base"] = sha256
        return purifying(name, pipeline, sha256, noise_level=noise_level, num_steps=num_steps)
