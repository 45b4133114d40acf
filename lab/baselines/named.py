"""Defences from words, such as ``purifier:0.05+jpeg:40``: what a command line asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import NO_DEFENCE, Defence, chained
from codefend.lab.baselines.filters import bilateral, blur, gaussian_noise, median
from codefend.lab.baselines.purifiers import purifying, purifying_between
from codefend.lab.errors import LabError
from codefend.models.purifier.purifier import Purifier
from codefend.models.purifier.strengths import STRENGTHS, Strength

__all__ = ["DEFENCES", "Chooser", "defence_named"]

Chooser = Callable[[float, Defence, Defence], Defence]
"""From a suspicion to two defences, of which the second is for images above it."""

DEFENCES: dict[str, Callable[[float], Defence]] = {
    "bilateral": bilateral,
    "bit_depth": lambda bits: bit_depth(round(bits)),
    "blur": blur,
    "jpeg": lambda quality: jpeg(round(quality)),
    "median": lambda size_px: median(round(size_px)),
    "noise": gaussian_noise,
}
"""Baselines by name, each made from its one setting; a new one is a new row here."""

_CHOSEN = re.compile(r"([^/@]+)/([^/@]+)@(0?\.\d+)")
_DRAWN = re.compile(r"([\d.]+)-([\d.]+)")


def defence_named(
    text: str, networks: Mapping[str, tuple[Purifier, str]], choose: Chooser | None = None
) -> Defence:
    """One defence, several one behind another, or two to choose between.

    Args:
        text: ``none``, or parts joined by ``+``: a baseline and its setting (``jpeg:30``), or a
            network, its noise level and its steps (``purifier:0.05``, ``base:0.1x4``), or two
            levels that each image's is drawn between (``purifier:0.05-0.12``), or the
            strength at which it is served (``purifier:strong``; ``standard`` where all is left
            out). Two of these with a suspicion behind them
            (``none/purifier:strong@0.8``): the second where the suspicion is above it.
        networks: purifiers and the hashes of their weights, by name.
        choose: makes one of two; None where there is no detector.

    Raises:
        LabError: A part is unknown, or its setting means nothing.
    """
    if two := _CHOSEN.fullmatch(text):
        if choose is None:
            raise LabError(f"{text} needs a detector: classify --detector")
        mild, harsh = (defence_named(words, networks) for words in two.group(1, 2))
        return choose(float(two.group(3)), mild, harsh)
    if text == "none":
        return NO_DEFENCE
    return chained([_part(word, networks) for word in text.split("+")])


def _part(word: str, networks: Mapping[str, tuple[Purifier, str]]) -> Defence:
    name, _, setting = word.partition(":")
    known = ", ".join(["none", *networks, *DEFENCES])
    try:
        if name in networks:
            return _network(name, *networks[name], setting)
        if name in DEFENCES and setting:
            return DEFENCES[name](float(setting))
    except ValueError as error:
        raise LabError(f"{word} is no defence: {error}") from error
    raise LabError(f"{word} is no defence; known: {known}; a baseline takes a number, as jpeg:30")


def _network(name: str, pipeline: Purifier, sha256: str, setting: str) -> Defence:
    """At a strength, ``LEVEL``, ``LEVELxSTEPS`` or ``LEVEL-LEVEL``; what is left out is its own."""
    if not setting or setting in STRENGTHS:
        return _as_strong(name, pipeline, sha256, Strength(setting or Strength.STANDARD))
    if drawn := _DRAWN.fullmatch(setting):
        return purifying_between(name, pipeline, sha256, *map(float, drawn.groups()))
    level, _, steps = setting.partition("x")
    noise_level, num_steps = float(level) if level else None, int(steps) if steps else None
    if not 0 < (1.0 if noise_level is None else noise_level) <= 1 or int(steps or 1) < 1:
        raise ValueError("levels are in (0, 1], steps at least 1")
    return purifying(name, pipeline, sha256, noise_level=noise_level, num_steps=num_steps)


def _as_strong(name: str, pipeline: Purifier, sha256: str, strength: Strength) -> Defence:
    if strength not in pipeline.strengths:
        raise ValueError(f"{name} has no strength {strength}: its noise is on another scale")
    levels = STRENGTHS[strength].levels(pipeline.config.noise_level, pipeline.config.num_steps)
    return purifying(name, pipeline, sha256, noise_level=levels[0], num_steps=len(levels))
