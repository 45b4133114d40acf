"""What the autoencoder of a latent purifier does by itself: no noise, no network."""

from __future__ import annotations

from torch import Generator, Tensor

from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.gradients import straight_through
from codefend.lab.errors import LabError
from codefend.models.purifier.latent import LatentPurificationPipeline
from codefend.models.purifier.purifier import Purifier

__all__ = ["round_trip"]


def round_trip(pipeline: Purifier, sha256: str) -> Defence:
    """Encode and decode: a latent purifier must do better, or its network does nothing.

    Args:
        pipeline: the latent base.
        sha256: of its weights.

    Raises:
        LabError: where the pipeline has no autoencoder.
    """
    if not isinstance(pipeline, LatentPurificationPipeline):
        raise LabError("autoencoder: a round trip needs a latent --base")

    def exact(images: Tensor, generator: Generator) -> Tensor:
        return pipeline.reconstruct(images.to(pipeline.device)).to(images.device)

    return Defence(
        "autoencoder",
        f"weights={sha256[:12]}",
        exact,
        passages={"exact": exact, "bpda": straight_through(exact)},
    )
