"""What a subject makes of defended images: asked once a seed of the defence's noise, and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from codefend.lab.baselines.defence import Defence, defend
from codefend.lab.experiments.store import Store, digest_of

__all__ = ["Responder"]

_MOST_SHARED = 16


@dataclass(slots=True)
class Responder:
    """Defends images, asks about them, and remembers every outcome.

    Attributes:
        store: where outcomes are kept.
        shared: what random defences made of the images asked about last: conditions that differ in
            their prompt alone, and chains with the same first part, see the same.
    """

    store: Store
    shared: OrderedDict[str, list[np.ndarray]] = field(default_factory=OrderedDict)

    def __call__(
        self,
        defence: Defence,
        images: Sequence[np.ndarray],
        ask: Callable[[list[np.ndarray]], Any],
        *,
        asked: Any,
        seeds: int,
    ) -> list[Any]:
        """What comes of the images, once a seed; once in all where the defence draws no noise.

        Args:
            defence: what the images go through.
            images: (H, W, 3) uint8 each.
            ask: defended images to an outcome that JSON can hold.
            asked: all that decides the outcome beside the defended images: who is asked, and what.
            seeds: of the defence's noise.

        Returns:
            Outcomes as JSON gives them back.
        """
        uploads = digest_of([np.asarray(image) for image in images])
        outcomes = []
        for seed in range(seeds if defence.is_random else 1):
            key = digest_of(uploads, defence.name, defence.setting, seed, asked)
            make = partial(self._outcome, defence, uploads, images, seed, ask)
            outcomes.append(self.store.json(key, make))
        return outcomes

    def _outcome(
        self,
        defence: Defence,
        uploads: str,
        images: Sequence[np.ndarray],
        seed: int,
        ask: Callable[[list[np.ndarray]], Any],
    ) -> Any:
        return ask(self._defended(defence, uploads, images, seed))

    def _defended(
        self, defence: Defence, uploads: str, images: Sequence[np.ndarray], seed: int
    ) -> list[np.ndarray]:
        """Images behind every part of a defence; what a random first part makes is shared."""
        first, *others = defence.parts or (defence,)
        seen = list(images)
        if first.is_random:
            key = digest_of(uploads, first.name, first.setting, seed)
            if key not in self.shared:
                self.shared[key] = defend(first, images, seed=seed)
            self.shared.move_to_end(key)
            while len(self.shared) > _MOST_SHARED:
                self.shared.popitem(last=False)
            seen = self.shared[key]
        else:
            seen = defend(first, images, seed=seed)
        for part in others:
            seen = defend(part, seen, seed=seed)
        return seen
