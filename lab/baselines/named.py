"""Defences from words, such as ``purifier:0.05+jpeg:40``: what a command line asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from codefend.lab.baselines.compression import bit_depth, jpeg
from codefend.lab.baselines.defence import NO_DEFENCE, Defence, chained
from codefend.lab.baselines.filters import bilateral, blur, gaussian_noise, median
from codefend.lab.baselines.purifiers import purifying
from codefend.lab.errors import LabError
from codefend.models.purifier.purifier import Purifier

__all__ = ["DEFENCES", "defence_named"]

DEFENCES: dict[str, Callable[[float], Defence]] = {
    "bilateral": bilateral,
    "bit_depth": lambda bits: bit_depth(round(bits)),
    "blur": blur,
    "jpeg": lambda quality: jpeg(round(quality)),
    "median": lambda size_px: median(round(size_px)),
    "noise": gaussian_noise,
}
"""Baselines by name, each made from its one setting; a new one is a new row here."""


def defence_named(text: str, networks: Mapping[str, tuple[Purifier, str]]) -> Defence:
    """One defence, or several one behind another.

    Args:
        text: ``none``, or parts joined by ``+``: a baseline and its setting (``jpeg:30``), or a
            network, its noise level and its steps (``purifier:0.05``, ``base:0.1x4``; as served
            where they are left out).
        networks: purifiers and the hashes of their weights, by name.

    Raises:
        LabError: A part is unknown, or its setting means nothing.
    """
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
    """A purifier at ``LEVEL`` or ``LEVELxSTEPS``; what is left out is as served."""
    level, _, steps = setting.partition("x")
    noise_level, num_steps = float(level) if level else None, int(steps) if steps else None
    if not 0 < (1.0 if noise_level is None else noise_level) <= 1 or int(steps or 1) < 1:
        raise ValueError("levels are in (0, 1], steps at least 1")
    return purifying(name, pipeline, sha256, noise_level=noise_level, num_steps=num_steps)
