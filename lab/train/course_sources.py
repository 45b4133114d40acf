"""What the command line names, loaded: victims, surrogates, and courses of their pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from codefend.lab.errors import LabError
from codefend.lab.precision import compute_dtype
from codefend.lab.train.courses import Course
from codefend.lab.train.pairs import load_pairs
from codefend.lab.victims.classifier import TRAINING_CLASSIFIER, ClassifierVictim, load_classifier
from codefend.lab.victims.victim import Victim, load_victim

__all__ = ["is_classifier", "load_course", "load_mllm", "load_surrogate_classifier"]

_CLASSIFIERS = TRAINING_CLASSIFIER.rstrip("0123456789")


def is_classifier(source: str) -> bool:
    """Whether this names an ImageNet classifier and not an MLLM."""
    return source.startswith(_CLASSIFIERS)


def load_course(source: str, main_batch_size: int, shares: Mapping[str, float]) -> Course:
    """A course from ``VICTIM=FOLDER,BATCH``.

    Every image weighs alike, whichever course it comes from.

    Args:
        source: whose encoder guides, where the pairs are, and how many images a step.
        main_batch_size: images a step of the course that has weight 1.
        shares: fields of ``Course``.

    Raises:
        LabError: the words mean nothing, there are no pairs, or the shares are too large.
    """
    victim, _, rest = source.partition("=")
    folder, _, number = rest.rpartition(",")
    if not (victim and folder and number.isdecimal() and int(number) > 0):
        raise LabError(f"--beside must be VICTIM=FOLDER,BATCH, not {source}")
    try:
        return Course(
            pairs=load_pairs(Path(folder)),
            guide=load_surrogate_classifier(victim) if is_classifier(victim) else load_mllm(victim),
            batch_size=int(number),
            weight=int(number) / main_batch_size,
            **shares,
        )
    except ValueError as error:
        raise LabError(str(error)) from error


def load_mllm(source: str) -> Victim:
    """An MLLM where there is a device for it, in the precision that is fast there."""
    device = _device()
    return load_victim(source, device=device).astype(compute_dtype(torch.device(device)))


def load_surrogate_classifier(name: str) -> ClassifierVictim:
    """The one that pairs may come from; never the one that is held out.

    Raises:
        LabError: for any other.
    """
    if name != TRAINING_CLASSIFIER:
        raise LabError(f"purifiers learn from {TRAINING_CLASSIFIER} alone, not from {name}")
    return load_classifier(name, device=_device(), resized=False)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
