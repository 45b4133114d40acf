"""The one error of the lab that a user is meant to read; the command line prints it bare."""

from __future__ import annotations

from pathlib import Path

from codefend.models.manifest import LABORATORY_WEIGHTS, WEIGHTS_DIRECTORY

__all__ = ["LabError", "no_weights"]


class LabError(Exception):
    """Something that the user can put right: a missing folder, package, weight or setting."""


def no_weights(path: Path | str, what: str, remedy: str) -> LabError:
    """The error of weights that are not there; of those that a wheel leaves out, it says so.

    Args:
        path: where they should be.
        what: what is missed: `no purifier`.
        remedy: what else mends it: `make it with: codefend-lab train`.
    """
    place = Path(path)
    if place.parent == WEIGHTS_DIRECTORY and place.name in LABORATORY_WEIGHTS:
        remedy = (
            "an installed wheel holds only what is served: install from a checkout, with "
            "pip install --editable '.[lab]'"
        )
    return LabError(f"{path} holds {what}; {remedy}")
