"""From what was said to what was right, item by item; the seeds of a defence's noise averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codefend.lab.evaluate.captions import cider_scores, names_all
from codefend.lab.evaluate.outcomes import Outcome
from codefend.lab.evaluate.truth import TrueScene
from codefend.lab.victims.answers import is_match, normalise

__all__ = ["Marks", "mark", "worst"]

_REFUSAL = normalise("i cannot tell")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of one condition on one set of images, with S seeds, N scenes and Q questions in all.

    Attributes:
        right: (S, Q) whether each answer is right.
        refused: (S, Q) whether it refuses although the truth does not.
        scene_of: (Q,) the scene of each question.
        kinds: (Q,) its type.
        cider: (S, N) CIDEr of each caption.
        named: (S, N) whether each caption names every object; where none are known, no columns.
        hit: (S, N) whether each caption is the target's; without targets no columns.
        psnr_db: (S, N), or no columns where nothing defends.
        ssim: (S, N), likewise.
    """

    right: Floats
    refused: Floats
    scene_of: NDArray[np.int64]
    kinds: NDArray[np.str_]
    cider: Floats
    named: Floats
    hit: Floats
    psnr_db: Floats
    ssim: Floats

    def first(self, num_scenes: int) -> Marks:
        """The marks of the first scenes alone."""
        asked = self.scene_of < num_scenes
        return Marks(
            right=self.right[:, asked],
            refused=self.refused[:, asked],
            scene_of=self.scene_of[asked],
            kinds=self.kinds[asked],
            cider=self.cider[:, :num_scenes],
            named=self.named[:, :num_scenes],
            hit=self.hit[:, :num_scenes],
            psnr_db=self.psnr_db[:, :num_scenes],
            ssim=self.ssim[:, :num_scenes],
        )

    def right_by_scene(self, num_scenes: int) -> Floats:
        """(N, 2): right answers, a mean over seeds, and questions of each scene."""
        mean = self.right.mean(axis=0)
        right = np.bincount(self.scene_of, weights=mean, minlength=num_scenes)
        return np.stack([right, np.bincount(self.scene_of, minlength=num_scenes)], axis=1)


def mark(
    outcomes: Sequence[Outcome],
    scenes: Sequence[TrueScene],
    references: Sequence[Sequence[str]],
    targets: Sequence[str] | None = None,
) -> Marks:
    """Marks the outcomes of one condition, one for each seed.

    Args:
        outcomes: equal but for the seed.
        scenes: what is true, in the same order.
        references: captions of all scenes of the split, the first of them those of ``scenes``.
        targets: what a targeted attack headed for.
    """
    questions = [(i, q) for i, scene in enumerate(scenes) for q in scene.questions]
    has_answers = any(outcomes[0].answers)
    asked = questions if has_answers else []
    answers = [[text for texts in o.answers for text in texts] for o in outcomes]
    return Marks(
        right=_table(
            [is_match(text, q.answer) for text, (_, q) in zip(said, asked, strict=True)]
            for said in answers
        ),
        refused=_table(
            [
                normalise(text) == _REFUSAL and normalise(q.answer) != _REFUSAL
                for text, (_, q) in zip(said, asked, strict=True)
            ]
            for said in answers
        ),
        scene_of=np.array([index for index, _ in asked], dtype=np.int64),
        kinds=np.array([q.kind for _, q in asked], dtype=np.str_),
        cider=np.stack([cider_scores(dict(enumerate(o.captions)), references) for o in outcomes]),
        named=_table(
            [names_all(text, s.objects) for text, s in zip(o.captions, scenes, strict=False)]
            if any(scene.objects for scene in scenes)
            else []
            for o in outcomes
        ),
        hit=_table(
            [
                is_match(text, wanted)
                for text, wanted in zip(o.captions, targets or (), strict=False)
            ]
            for o in outcomes
        ),
        psnr_db=_table(o.psnr_db for o in outcomes),
        ssim=_table(o.ssim for o in outcomes),
    )


def worst(rivals: Sequence[Marks]) -> Marks:
    """Item by item and seed by seed the worst of several attacks on the same scenes."""
    lowest = {
        name: np.minimum.reduce([getattr(marks, name) for marks in rivals])
        for name in ("right", "cider", "named", "psnr_db", "ssim")
    }
    highest = {
        name: np.maximum.reduce([getattr(marks, name) for marks in rivals])
        for name in ("refused", "hit")
    }
    return replace(rivals[0], **lowest, **highest)


def _table(rows: object) -> Floats:
    """One row a seed."""
    return np.array(list(rows), dtype=np.float64)  # type: ignore[call-overload]
