"""The attacker's own purifier (T1): it stands in for the deployed one, whatever that may be."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from codefend.lab.baselines.defence import Passage
from codefend.lab.baselines.purifiers import noise_source
from codefend.models.purifier.purifier import Purifier

__all__ = ["surrogate_passage"]


def surrogate_passage(pipeline: Purifier, *, largest_noise_level: float | None = None) -> Passage:
    """Purification in one step from a noise level drawn anew each time, up to a largest one.

    As PureProof (CVPR 2026) attacks a purifier that it does not have: t is uniform up to t_max,
    because the deployed t* is unknown, and gradients are averaged over draws (``ThroughDefence``,
    10 of them there). Deviation: one level for all images of a draw.

    Args:
        pipeline: any purifier.
        largest_noise_level: t_max, in units of the range; the pipeline's own level where None.

    Raises:
        ValueError: for a level outside (0, 1].
    """
    largest = pipeline.config.noise_level if largest_noise_level is None else largest_noise_level
    if not 0 < largest <= 1:
        raise ValueError(f"the largest noise level must be in (0, 1], not {largest}")

    def passage(images: Tensor, generator: Generator) -> Tensor:
        share = 1.0 - float(torch.rand((), generator=generator))  # in (0, 1]
        purified = pipeline.purify_with_gradient(
            images.to(pipeline.device),
            noise_source(pipeline, generator),
            num_steps=1,
            noise_level=share * largest,
        )
        return purified.to(images.device)

    return passage
