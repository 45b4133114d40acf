"""Scores of captions: CIDEr against the references, and whether every object is named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.cider.cider import Cider

__all__ = ["cider_scores", "names_all", "tokenise_caption"]

# What the Penn Treebank tokeniser splits off and the COCO evaluation then drops.
_PUNCTUATION = re.compile(r"""["'`(){}\[\].?!,:;\-]+""")


def tokenise_caption(text: str) -> str:
    """Lower case, punctuation dropped, single blanks: as COCO's PTB tokeniser leaves plain text."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def cider_scores(
    captions: Mapping[int, str], references: Sequence[Sequence[str]]
) -> NDArray[np.float64]:
    """CIDEr of each caption: Vedantam et al. 2015, by the scorer of ``pycocoevalcap``.

    Document frequencies come from all references, so that scores of a part of the scenes compare
    with those of the whole.

    Args:
        captions: scene index to its caption.
        references: for every scene, its right captions.

    Returns:
        (len(captions),) scores in the order of ``captions``, 0 to 10.
    """
    texts = {i: [tokenise_caption(t) for t in group] for i, group in enumerate(references)}
    answers = {i: [tokenise_caption(captions.get(i, ""))] for i in texts}
    _, scores = Cider().compute_score(texts, answers)
    return np.asarray([scores[index] for index in captions], dtype=np.float64)


def names_all(caption: str, objects: Sequence[str]) -> bool:
    """Whether the caption names every object, word for word."""
    text = f" {tokenise_caption(caption)} "
    return all(f" {tokenise_caption(name)} " in text for name in objects)
