"""Which wrong caption a targeted attack heads for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codefend.lab.errors import LabError
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.victims.answers import normalise

__all__ = ["target_captions"]


def target_captions(scenes: Sequence[TrueScene], *, seed: int = 0) -> list[str]:
    """For each scene the caption of another scene: another text, and no object in common.

    Args:
        scenes: where captions are taken from; at least one other that will do for each.
        seed: of the choice.

    Raises:
        LabError: where some scene shares its caption or an object with every other.
    """
    rng = np.random.default_rng(seed)
    objects = [frozenset(scene.objects) for scene in scenes]
    targets = []
    captions = [normalise(scene.captions[0]) for scene in scenes]
    for index in range(len(scenes)):
        order = (int(other) for other in rng.permutation(len(scenes)))
        others = (o for o in order if captions[o] != captions[index])
        other = next((o for o in others if not objects[o] & objects[index]), None)
        if other is None:
            raise LabError(
                f"scene {index} shares its caption or an object with every other scene: "
                "use more scenes"
            )
        targets.append(scenes[other].captions[0])
    return targets
