"""An engine that gives every image back as it came: what is left is what the service costs."""

import numpy as np
from numpy.typing import NDArray

from codefend.models.purifier.strengths import Strength
from codefend.service.purify.engine import EngineOptions
from codefend.service.stages import EngineFacts

__all__ = ["IMPORT_PATH", "load_engine"]

IMPORT_PATH = "benchmarks.identity_engine:load_engine"


class _Identity:
    facts = EngineFacts("identity", "1", steps=0, noise_level=0.0, device="cpu")

    def purify(
        self, images: NDArray[np.uint8], strength: Strength = Strength.STANDARD
    ) -> NDArray[np.uint8]:
        return images

    def suspect(self, upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> float | None:
        return None


def load_engine(_: EngineOptions) -> _Identity:
    """Loads nothing."""
    return _Identity()
