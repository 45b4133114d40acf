"""Attacked images: made batch by batch, seeded by the batch's number, kept, re-read from PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from codefend.lab.baselines.defence import Defence
from codefend.lab.experiments.store import Store, digest_of
from codefend.lab.progress import progress

__all__ = ["AttackBatch", "craft", "gradients_of"]

T = TypeVar("T")

SEEDS_APART = 1_000_003
"""Between the seeds of two runs there is room for so many batches."""


@dataclass(frozen=True, slots=True)
class AttackBatch(Generic[T]):
    """What is attacked at once.

    Attributes:
        items: scenes, windows, lines: whatever the attack knows how to attack.
        start: the number of the first item.
        seed: of this batch's random choices.
        advance: says that so many steps were taken; shows progress.
    """

    items: Sequence[T]
    start: int
    seed: int
    advance: Callable[[int], object] = lambda _: None


def craft(
    store: Store,
    label: str,
    items: Sequence[T],
    attack: Callable[[AttackBatch[T]], Sequence[bytes]],
    *,
    made_by: Any,
    seed: int,
    batch_size: int = 32,
    num_steps: int = 1,
) -> list[np.ndarray]:
    """Attacks items; whatever is on disk is not attacked again.

    Args:
        store: where files are kept, one folder an attack and one a batch in it.
        label: of the attack: its folder, and what progress shows.
        items: what is attacked; see `digest_of` for what may decide an image.
        attack: gives the PNG file that would be uploaded of each item of a batch.
        made_by: all that decides images beside the items: the attack and its settings, weights.
        seed: of random starts; every batch has its own.
        batch_size: items attacked at once; part of what decides random starts.
        num_steps: how often `attack` advances for one batch; 1 where it never does.

    Returns:
        (H, W, 3) uint8 each, in order.
    """
    images: list[np.ndarray] = []
    starts = range(0, len(items), batch_size)
    with progress(total=len(starts) * num_steps, desc=label) as bar:
        for number, start in enumerate(starts):
            chunk = items[start : start + batch_size]
            reached = bar.n
            batch = AttackBatch(chunk, start, SEEDS_APART * seed + number, bar.update)
            key = f"{label}/{digest_of(made_by, number, seed, chunk)}"
            images += store.images(key, len(chunk), partial(attack, batch))
            bar.update(reached + num_steps - bar.n)
    return images


def gradients_of(defence: Defence) -> list[str]:
    """The exact gradient where a defence has it, else all that it has; and always the evading."""
    own = defence.gradients
    return [way for way in own if "exact" not in own or way in ("exact", *defence.penalties)]
