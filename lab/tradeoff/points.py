"""The points of a trade-off: purifiers at their settings, alone or with a codec behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from codefend.lab.baselines.defence import chained
from codefend.lab.baselines.grid import settings_named
from codefend.lab.baselines.named import Chooser, defence_named
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.errors import LabError
from codefend.lab.evaluate.outcomes import Condition
from codefend.lab.labels import OURS
from codefend.models.purifier.purifier import Purifier

__all__ = ["SERVED", "Point", "points_of"]

SERVED = OURS[-1]
"""The first purifier at its own setting; all others are compared with it."""
_OPTION = "--settings"

_Setting = tuple[str, float, int, str, str]
"""Purifier, noise level, steps, what stands behind, and what is chosen above which suspicion."""


@dataclass(frozen=True, slots=True)
class Point:
    """One purifier at one setting.

    Attributes:
        condition: the defence, under the name that rows carry.
        purifier: whose weights.
        noise_level: how much noise, on the scale of its kind.
        num_steps: denoising steps.
        behind: what its images go through after it, in the words of `defence_named`; may be empty.
        harsh: what suspicious images go through instead, and the suspicion: LEVELxSTEPS@SUSPICION;
            may be empty.
    """

    condition: Condition
    purifier: str
    noise_level: float
    num_steps: int
    behind: str = ""
    harsh: str = ""

    @property
    def family(self) -> str:
        """The purifier, and what stands behind it: points of one family differ in their setting."""
        behind = f"{self.behind and '+' + self.behind}{self.harsh and '/' + self.harsh}"
        return f"{self.purifier}{behind}"


def points_of(
    purifiers: Mapping[str, tuple[Purifier, str]],
    words: Iterable[str],
    choose: Chooser | None = None,
) -> list[Point]:
    """Every purifier at its own setting, then whatever the words say, none twice.

    Args:
        purifiers: name to pipeline and hash of its weights.
        words: LEVELxSTEPS for every purifier, NAME:LEVELxSTEPS for one; with `+jpeg:75` or other
            words of `defence_named` for what stands behind; with `/LEVELxSTEPS@0.8`, behind all
            that, for what images go through instead whose suspicion is above 0.8.
        choose: makes one defence of two by suspicion; None where there is no detector.

    Returns:
        The points; the first is named ``purifier``, the others by purifier, level, steps and what
        stands behind.

    Raises:
        LabError: for a word that says none of that.
    """
    wanted: list[_Setting] = []
    for name, (pipeline, _) in purifiers.items():
        wanted.append((name, pipeline.config.noise_level, pipeline.config.num_steps, "", ""))
        wanted += [each for word in words for each in _said(word, purifiers) if each[0] == name]
    points: list[Point] = []
    for name, level, steps, behind, harsh in dict.fromkeys(wanted):
        pipeline, sha256 = purifiers[name]
        setting = f"{level:g}x{steps}{behind and '+' + behind}{harsh and '/' + harsh}"
        # Of one name for all settings, so that what it makes of an image is shared.
        parts = [purifying(name, pipeline, sha256, noise_level=level, num_steps=steps)]
        parts += [defence_named(behind, {})] if behind else []
        defence = chained(parts)
        if harsh:
            defence = defence_named(
                f"{name}:{setting.replace('/', f'/{name}:')}", purifiers, choose
            )
        condition = Condition(f"{name}@{setting}" if points else SERVED, defence)
        points.append(Point(condition, name, level, steps, behind, harsh))
    return points


def _said(word: str, purifiers: Mapping[str, object]) -> Iterator[_Setting]:
    mild, _, harsh = word.partition("/")
    head, _, behind = mild.partition("+")
    name, _, setting = head.rpartition(":")
    if name and name not in purifiers:
        raise LabError(f"{_OPTION}: {word} names none of {', '.join(purifiers)}")
    for level, steps in settings_named(setting, _OPTION):
        for each in [name] if name else purifiers:
            yield each, level, steps, behind, harsh
