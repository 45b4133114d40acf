"""Typographic attack: Goh et al. 2021, "Multimodal Neurons in Artificial Neural Networks"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from codefend.lab.attacks.budgets import Window
from codefend.lab.attacks.interface import Objective
from codefend.lab.attacks.lettering import board
from codefend.lab.attacks.search import best_of, checked
from codefend.lab.attacks.words import OBJECT_WORDS
from codefend.models.quantise import dequantise

__all__ = ["TypographicAttack"]


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
        checked(steps=1, restarts=self.restarts)
        Window(self.area)
        if not all(self.words):
            raise ValueError("every image needs at least one word")

    @property
    def budget(self) -> Window:
        """See ``Budgeted``."""
        return Window(self.area)

    def __call__(
        self, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """See ``Attack.__call__``; ``objective`` only chooses among the tries.

        Raises:
            ValueError: for more or fewer images than there are words for.
        """
        words = self.words or [OBJECT_WORDS] * len(images)
        if len(words) != len(images):
            raise ValueError(f"words for {len(words)} images, but {len(images)} images")
        run = partial(self._run, images.detach(), words, objective, generator)
        return best_of(run for _ in range(self.restarts))

    @torch.no_grad()
    def _run(
        self,
        clean: Tensor,
        words: Sequence[Sequence[str]],
        objective: Objective,
        generator: torch.Generator | None,
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
