"""Test scenes of the embedded world, and the questions that a prior is counted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from codefend.lab.evaluate.truth import AskedQuestion, TrueScene
from codefend.lab.world.compose import World
from codefend.lab.world.language import questions
from codefend.lab.world.layout import Split, sample_layout
from codefend.lab.world.scenes import scenes

__all__ = ["training_questions", "world_scenes"]

_BATCH = 64


def world_scenes(world: World, split: Split, num: int, *, seed: int) -> Sequence[TrueScene]:
    """The first ``num`` scenes of a split's stream."""
    found: list[TrueScene] = []
    for start in range(0, num, _BATCH):
        found += scenes(split, min(_BATCH, num - start), seed, world, start=start)
    return found


def training_questions(num_scenes: int, *, seed: int) -> Iterator[AskedQuestion]:
    """Questions about so many training layouts; no image is drawn for them."""
    rng = np.random.default_rng(seed)
    for _ in range(num_scenes):
        yield from questions(sample_layout(rng, "train", num_photos=1), rng)
