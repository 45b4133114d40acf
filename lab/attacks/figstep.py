"""A page of text instead of a scene: Gong et al. 2023, "FigStep"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codefend.lab.attacks.budgets import Window
from codefend.lab.attacks.interface import Objective
from codefend.lab.attacks.lettering import board
from codefend.lab.attacks.words import OBJECT_WORDS
from codefend.models.quantise import dequantise

__all__ = ["TextPage"]


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
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` is never asked.

        Raises:
            ValueError: for more or fewer images than there are words for.
        """
        words = self.words or [OBJECT_WORDS] * len(images)
        if len(words) != len(images):
            raise ValueError(f"words for {len(words)} images, but {len(images)} images")
        return torch.stack(
            [self._page(*each, generator) for each in zip(images.detach(), words, strict=True)]
        )

    def _page(
        self, image: Tensor, choices: Sequence[str], generator: torch.Generator | None
    ) -> Tensor:
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
