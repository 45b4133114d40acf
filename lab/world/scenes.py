"""Scenes: an image with its captions, questions and answers, all from one seed and one number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from codefend.lab.world.compose import World
from codefend.lab.world.language import Question, caption_references, questions
from codefend.lab.world.layout import SPLITS, Layout, Split, sample_layout

__all__ = ["Scene", "SceneBatch", "scene_batch", "scenes"]


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene and all that is true of it.

    Attributes:
        image: (H, W, 3) uint8.
        captions: Five references; the first is the canonical one.
        questions: At most one of each type.
        objects: Names of the kinds that stand in it.
        index: Its number in the stream of its split and seed.
        layout: What the image was drawn from.
    """

    image: np.ndarray
    captions: tuple[str, ...]
    questions: tuple[Question, ...]
    objects: tuple[str, ...]
    index: int
    layout: Layout

    @property
    def request(self) -> str | None:
        """No words of its own in which a caption is asked for."""
        return None


@dataclass(frozen=True, slots=True)
class SceneBatch:
    """Training's view of scenes: pixels (B, 3, H, W) uint8, labels (B, H, W) uint8, and truths."""

    images: torch.Tensor
    labels: torch.Tensor
    captions: list[tuple[str, ...]]
    questions: list[tuple[Question, ...]]
    layouts: list[Layout]


def scene_batch(
    world: World, split: Split, indices: Iterable[int], *, seed: int, size_px: int = 128
) -> SceneBatch:
    """Compose the scenes numbered ``indices`` of a stream; the same give the same."""
    layouts, asked = [], []
    for index in indices:
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        layout = sample_layout(rng, split, len(world.photos[split]))
        layouts.append(layout)
        asked.append(questions(layout, rng))
    images, labels = world.compose(layouts, split, size_px=size_px)
    captions = [caption_references(layout) for layout in layouts]
    return SceneBatch(images, labels, captions, asked, layouts)


def scenes(
    split: Split, num: int, seed: int, world: World, *, start: int = 0, size_px: int = 128
) -> list[Scene]:
    """The scenes numbered ``start`` to ``start + num - 1``."""
    batch = scene_batch(world, split, range(start, start + num), seed=seed, size_px=size_px)
    pixels = batch.images.permute(0, 2, 3, 1).numpy()
    return [
        Scene(
            image=np.ascontiguousarray(pixels[i]),
            captions=batch.captions[i],
            questions=batch.questions[i],
            objects=tuple(placed.name for placed in batch.layouts[i].objects),
            index=start + i,
            layout=batch.layouts[i],
        )
        for i in range(num)
    ]
