"""Attacks that write on an image: Pillow's own font, and names of things that it does not show.

Goh et al. 2021, "Multimodal Neurons in Artificial Neural Networks" (typographic attacks); Gong et
al. 2023, "FigStep" (a page of text instead of a scene).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from codefend.lab.attacks.budgets import Window
from codefend.lab.attacks.gradient import require_valid, where_image
from codefend.lab.attacks.interface import Objective
from codefend.lab.victims.dialogue import Dialogue
from codefend.models.quantise import dequantise

__all__ = [
    "OBJECT_WORDS",
    "TextPage",
    "TypographicAttack",
    "absent_words",
    "board",
    "misleading_words",
    "names_any",
]

_PAPER, _INK = (250, 248, 235), (20, 20, 25)
_LEAST_SIZE = 7  # below, Pillow's font can no longer be read

OBJECT_WORDS: tuple[str, ...] = (
    *("dog", "cat", "bear", "lion", "frog", "pig", "cow", "owl", "fish", "rabbit", "turtle"),
    *("apple", "banana", "lemon", "carrot", "pizza", "burger", "cake", "bread", "egg", "cheese"),
    *("car", "taxi", "bus", "truck", "bicycle", "plane", "rocket", "ship", "train", "scooter"),
    *("umbrella", "key", "clock", "guitar", "ball", "book", "camera", "lamp", "chair", "cup"),
    *("crown", "bell", "hat", "phone"),
)
"""Short names that a victim is likely to know: the embedded world's and COCO's."""


def board(lines: Sequence[str], height: int, width: int, *, area: int | None = None) -> np.ndarray:
    """Dark text on a light board, as large as fits.

    Args:
        lines: what is written.
        height: greatest height of the board, in pixels.
        width: greatest width of the board, in pixels.
        area: greatest number of its pixels; height times width where None.

    Returns:
        (rows, columns, 3) uint8, just large enough for the text.

    Raises:
        ValueError: where even the smallest letters do not fit.
    """
    text = "\n".join(lines)
    for size in range(height, _LEAST_SIZE - 1, -1):
        columns, rows = _measure(text, size)[:2]
        if rows <= height and columns <= width and rows * columns <= (area or height * width):
            return _draw(text, size)
    raise ValueError(f"{text!r} cannot be written on {area or height * width} pixels")


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


@cache
def _scratch() -> ImageDraw.ImageDraw:
    return ImageDraw.Draw(Image.new("RGB", (1, 1)))


def _measure(text: str, size: int) -> tuple[int, int, tuple[float, float]]:
    """Columns and rows of a board, and where its text begins."""
    left, top, right, bottom = _scratch().multiline_textbbox((0, 0), text, font=_font(size))
    margin = max(1, size // 6)
    start = (margin - left, margin - top)
    return int(right - left) + 2 * margin, int(bottom - top) + 2 * margin, start


def _draw(text: str, size: int) -> np.ndarray:
    columns, rows, start = _measure(text, size)
    paper = Image.new("RGB", (columns, rows), _PAPER)
    ImageDraw.Draw(paper).multiline_text(start, text, _INK, font=_font(size))
    return np.asarray(paper)


def absent_words(truths: Sequence[Dialogue]) -> tuple[str, ...]:
    """Names of things that are not in the image.

    Args:
        truths: what is asked about the image, with the right answers.

    Raises:
        ValueError: where the truths name everything.
    """
    present = {w for d in truths for w in _words(d.answer)}
    present |= {w for d in truths if d.answer != "no" for w in _words(d.prompt)}
    absent = [word for word in OBJECT_WORDS if word not in present and f"{word}s" not in present]
    if not absent:
        raise ValueError("no known object is absent from the image")
    return tuple(absent)


def misleading_words(truths: Sequence[Dialogue]) -> tuple[str, ...]:
    """Of the absent things those that a question asks for in vain; all where none does.

    To write what is asked for misleads most: the answer turns from no to yes.
    """
    in_vain = {w for d in truths if d.answer == "no" for w in _words(d.prompt)}
    absent = absent_words(truths)
    return tuple(word for word in absent if word in in_vain) or absent


def names_any(text: str, words: Sequence[str]) -> bool:
    """Whether a text says any of these words."""
    return not set(_words(text)).isdisjoint(words)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _words_for(images: Tensor, words: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """What may be written on each image: as told, or any name."""
    if words and len(words) != len(images):
        raise ValueError(f"words for {len(words)} images, but {len(images)} images")
    return words or [OBJECT_WORDS] * len(images)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypographicAttack:
    """Writes a wrong word on the image, on a small board at a random place; needs no gradient.

    Deviations: the board is drawn, not photographed; of several tries the one with the highest
    loss is kept.

    Attributes:
        words: for each image, what may be written; any name where there are none.
        area: greatest share of the image that the board covers.
        restarts: tries of a word and a place; each image keeps its best.
    """

    words: Sequence[Sequence[str]] = ()
    area: float = 0.1
    restarts: int = 1

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        require_valid(steps=1, restarts=self.restarts)
        Window(self.area)
        if not all(self.words):
            raise ValueError("every image needs at least one word")

    @property
    def budget(self) -> Window:
        """See ``Budgeted``."""
        return Window(self.area)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` only chooses among the tries.

        Raises:
            ValueError: for more or fewer images than there are words for.
        """
        words = _words_for(images, self.words)
        best, highest = self._write(images.detach(), words, objective, generator)
        for _ in range(1, self.restarts):
            written, losses = self._write(images.detach(), words, objective, generator)
            best = where_image(losses > highest, written, best)
            highest = torch.maximum(losses, highest)
        return best

    @torch.no_grad()
    def _write(
        self,
        clean: Tensor,
        words: Sequence[Sequence[str]],
        objective: Objective,
        generator: Generator | None,
    ) -> tuple[Tensor, Tensor]:
        height, width = clean.shape[-2:]
        draws = torch.rand(len(clean), 3, generator=generator).tolist()
        written = clean.clone()
        for image, choices, (choice, down, across) in zip(written, words, draws, strict=True):
            word = choices[int(choice * len(choices))]
            drawn = board([word], height, width, area=int(self.area * height * width))
            rows, columns, _ = drawn.shape
            top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
            pixels = dequantise(torch.from_numpy(drawn.copy())[None])[0]
            image[:, top : top + rows, left : left + columns] = pixels.to(image)
        return written, objective(written).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPage:
    """Replaces the image by a page that states, in a numbered list, what is not there.

    Deviation: FigStep's list is an instruction that the model is asked to complete; here it says
    that the image shows ``num_items`` absent things, so that an answer read off the page is wrong.
    No gradient, no objective.

    Attributes:
        words: for each image, what the list may name; any name where there are none.
        num_items: length of the list.
    """

    words: Sequence[Sequence[str]] = ()
    num_items: int = 3

    def __post_init__(self) -> None:
        """Validates the hyper-parameters."""
        if self.num_items < 1 or not all(self.words):
            raise ValueError("a list needs at least one item, and every image at least one word")

    @property
    def budget(self) -> Window:
        """See ``Budgeted``: the whole image."""
        return Window(1.0)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, objective: Objective, *, generator: Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` is never asked.

        Raises:
            ValueError: for more or fewer images than there are words for.
        """
        words = _words_for(images, self.words)
        return torch.stack(
            [self._page(*each, generator) for each in zip(images.detach(), words, strict=True)]
        )

    def _page(self, image: Tensor, choices: Sequence[str], generator: Generator | None) -> Tensor:
        order = torch.randperm(len(choices), generator=generator)[: self.num_items].tolist()
        items = [f"{number}. {choices[index]}" for number, index in enumerate(order, start=1)]
        height, width = image.shape[-2:]
        drawn = board(["this image shows:", *items], height, width)
        rows, columns, _ = drawn.shape
        pixels = dequantise(torch.from_numpy(drawn.copy())[None])[0].to(image)
        page = pixels[:, :1, :1].expand(-1, height, width).clone()
        top, left = (height - rows) // 2, (width - columns) // 2
        page[:, top : top + rows, left : left + columns] = pixels
        return page
