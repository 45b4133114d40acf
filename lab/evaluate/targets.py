"""Which wrong caption a targeted attack heads for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lab.errors import LabError
from lab.evaluate.truth import TrueScene

__all__ = ["target_captions"]


def target_captions(scenes: Sequence[TrueScene], *, seed: int = 0) -> list[str]:
    """For each scene the caption of another scene that shares no object with it.

    Args:
        scenes: where captions are taken from; at least two without a common object for each.
        seed: of the choice.

    Raises:
        LabError: where some scene shares an object with every other.
    """
    rng = np.random.default_rng(seed)
    objects = [frozenset(scene.objects) for scene in scenes]
    targets = []
    for index in range(len(scenes)):
        order = (int(other) for other in rng.permutation(len(scenes)))
        other = next((o for o in order if not objects[o] & objects[index]), None)
        if other is None or other == index:
            raise LabError(
                f"scene {index} shares an object with every other scene: use more scenes"
            )
        targets.append(scenes[other].captions[0])
    return targets
