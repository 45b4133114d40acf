"""The pixel purifier: noise an attacked image to a small level, then predict the clean one.

Served by ``service/purify``, trained and evaluated by ``lab``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from diffusers import UNet2DModel
from torch import Tensor

from codefend.models.purifier.denoiser import denoise, padding_multiple
from codefend.models.purifier.network import build_network
from codefend.models.purifier.purifier import Level, Purifier, Run
from codefend.models.purifier.strengths import Strength

__all__ = ["PurificationPipeline"]


class PurificationPipeline(Purifier):
    """A pixel diffusion purifier in the ``diffusers`` format.

    Purification runs the forward process to the noise level t* and the reverse process back
    (DiffPure, Nie et al. 2022, eq. 4–6), with a denoiser fine-tuned on pairs so that one step is
    enough (CoDefend, arXiv 2510.11096). Its noise levels are standard deviations, in units of the
    [0, 1] range.

    Attributes:
        unet: Reads pixel-unshuffled images; for its scalings see
            ``codefend.models.purifier.denoiser``.
    """

    unet: UNet2DModel

    def __init__(
        self,
        unet: UNet2DModel,
        noise_level: float = 0.05,
        num_steps: int = 1,
        name: str = "purifier",
        version: str = "0",
    ) -> None:
        """Assemble a pipeline.

        Args:
            unet: The network.
            noise_level: Default standard deviation of the noise, in units of the [0, 1] range.
            num_steps: Default number of denoising steps.
            name: What responses and reports call it.
            version: Changes with every training.
        """
        super().__init__()
        self.register_modules(unet=unet)
        self.register_to_config(
            noise_level=noise_level, num_steps=num_steps, name=name, version=version
        )

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A real pipeline with a tiny random network, for tests."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(widths=(16, 16), num_layers=1)
            torch.nn.init.normal_(network.conv_out.weight, std=0.02)
        return cls(network, name="tiny", version=str(seed))

    @property
    def padding_multiple(self) -> int:
        """The unshuffle factor times the network's own strides."""
        return padding_multiple(self.unet)

    @property
    def noise_layout(self) -> tuple[int, int]:
        """A value for each value of the image."""
        return 3, 1

    @property
    def strengths(self) -> tuple[Strength, ...]:
        """All: the table's noise levels are on this scale."""
        return tuple(Strength)

    def _purify_padded(
        self, images: Tensor, levels: Sequence[Level], noises: Iterable[Tensor], run: Run
    ) -> Tensor:
        current = images
        for level, noise in zip(levels, noises, strict=True):
            current = run(denoise, self.unet, current + level * noise, level)
        return current
