"""Four little scenes, and a stand-in for the world's Scene with what the evaluation reads."""

from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class Asked:
    question: str
    answer: str
    kind: str


@dataclass(frozen=True)
class LittleScene:
    image: np.ndarray
    captions: tuple[str, ...]
    questions: tuple[Asked, ...]
    objects: tuple[str, ...]
    request: str | None = None


def scene(index, name):
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return LittleScene(
        image=np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8)),
        captions=(f"a {name} at the top", f"there is a {name}"),
        questions=(
            Asked("what is at the top?", name, "what"),
            Asked(f"is there a {name}?", "yes", "exists"),
        ),
        objects=(name,),
    )


@pytest.fixture(scope="session")
def scenes():
    return [scene(index, name) for index, name in enumerate(["cat", "car", "cat", "apple"])]
