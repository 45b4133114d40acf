"""A loss whose questions the attacker may reword a little: the text side of the joint attack."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from codefend.lab.victims.dialogue import Dialogue
from codefend.lab.victims.likelihood import AnswerScore, DialogueLoss
from codefend.lab.victims.victim import Victim

__all__ = ["RewordedLoss", "rewordings"]

_FRAMES = ("please answer: {}", "look at the picture. {}")


def rewordings(
    prompt: str, *, num_typos: int = 4, generator: torch.Generator | None = None
) -> list[str]:
    """The prompt itself, and small changes of it that keep its meaning.

    Each changes one thing: words around the prompt, its last mark left out, or two neighbouring
    letters swapped within one word of at least five (shorter words too easily become others).

    Args:
        prompt: what is asked.
        num_typos: most swaps that are offered.
        generator: source of the choice of swaps.
    """
    found = [prompt, *(frame.format(prompt) for frame in _FRAMES), prompt.rstrip("?.! ")]
    places = [
        place
        for word in re.finditer(r"[A-Za-z]{5,}", prompt)
        for place in range(word.start() + 1, word.end() - 2)
        if prompt[place] != prompt[place + 1]
    ]
    for index in torch.randperm(len(places), generator=generator)[:num_typos].tolist():
        place = places[index]
        swapped = prompt[place + 1] + prompt[place]
        found.append(prompt[:place] + swapped + prompt[place + 2 :])
    return list(dict.fromkeys(text for text in found if text))


class RewordedLoss:
    """The mean score of an image's answers under the wording chosen last."""

    def __init__(
        self,
        victims: Sequence[Victim],
        truths: Sequence[Sequence[Dialogue]],
        score: AnswerScore,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draws the rewordings; until ``reword`` is called every prompt is the original.

        Args:
            victims: whose losses are averaged.
            truths: for each image, its questions with their right answers.
            score: what an answer contributes.
            generator: source of the typos.
        """
        self._score = score
        self._victims = victims
        self._candidates = [
            [
                [Dialogue(text, d.answer) for text in rewordings(d.prompt, generator=generator)]
                for d in group
            ]
            for group in truths
        ]
        self._choose([[0] * len(group) for group in truths])

    @property
    def prompts(self) -> list[tuple[str, ...]]:
        """For each image, its questions as they are worded now, in order."""
        return [tuple(dialogue.prompt for dialogue in group) for group in self._chosen]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to losses (B,), on the images' device."""
        return torch.stack([loss(images) for loss in self._losses]).mean(dim=0)

    @torch.no_grad()
    def reword(self, images: Tensor) -> None:
        """Takes, for each question, the wording under which its answer scores highest."""
        offered = [[d for asked in group for d in asked] for group in self._candidates]
        losses = [DialogueLoss(victim, offered, self._score) for victim in self._victims]
        scores = torch.stack([loss.answers(images).float().cpu() for loss in losses]).mean(dim=0)
        counts = [len(asked) for group in self._candidates for asked in group]
        best = iter([int(share.argmax()) for share in torch.split(scores, counts)])
        self._choose([[next(best) for _ in group] for group in self._candidates])

    def _choose(self, choices: Sequence[Sequence[int]]) -> None:
        self._chosen = [
            [asked[index] for asked, index in zip(group, indices, strict=True)]
            for group, indices in zip(self._candidates, choices, strict=True)
        ]
        self._losses = [DialogueLoss(victim, self._chosen, self._score) for victim in self._victims]
