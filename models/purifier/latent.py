"""The latent purifier: Stable Diffusion's parts, tuned to give back the clean latent in one step.

Served by ``service/purify``, trained and evaluated by ``lab``. ``codefend.models.purifier.loading``
makes one from a directory of its own or of Stable Diffusion, with or without adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from codefend.models.purifier.empty_prompt import EmptyPrompt
from codefend.models.purifier.latent_network import (
    build_autoencoder,
    build_latent_network,
    stable_diffusion_schedule,
)
from codefend.models.purifier.latent_step import (
    Autoencoder,
    add_noise,
    decode,
    encode,
    latent_factor,
    latent_padding_multiple,
    predict_clean,
    timesteps_of,
)
from codefend.models.purifier.purifier import Level, Purifier, Run, run_directly

__all__ = ["LatentPurificationPipeline"]


class LatentPurificationPipeline(Purifier):
    """A latent diffusion purifier in the ``diffusers`` format.

    What CoDefend (arXiv 2510.11096) does with Stable Diffusion: the attacked image is encoded, its
    latent noised to a level t*, the clean latent predicted by a network fine-tuned on pairs, and
    decoded. One step, as in OSCP (CVPR 2025). Noise levels are shares of the schedule.

    Attributes:
        vae: Images to latents and back: a full autoencoder or a tiny one.
        unet: Predicts noise in latents; adapters, where there are any, are already fused.
        scheduler: Holds the noise schedule.
        empty_prompt: What the cross attention reads.
    """

    vae: Autoencoder
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    empty_prompt: EmptyPrompt

    def __init__(
        self,
        vae: Autoencoder,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        empty_prompt: EmptyPrompt,
        noise_level: float = 0.1,
        num_steps: int = 1,
        name: str = "latent-purifier",
        version: str = "0",
    ) -> None:
        """Assemble a pipeline.

        Args:
            vae: The autoencoder.
            unet: The network.
            scheduler: The noise schedule that the network was trained with.
            empty_prompt: Of the network's text encoder.
            noise_level: Default t*, a share of the schedule in (0, 1].
            num_steps: Default number of denoising steps.
            name: What responses and reports call it.
            version: Changes with every training.
        """
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, empty_prompt=empty_prompt)
        self.register_to_config(
            noise_level=noise_level, num_steps=num_steps, name=name, version=version
        )

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A real pipeline with tiny random networks, for tests."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                build_autoencoder(widths=(8, 16), latent_channels=4),
                build_latent_network(
                    widths=(16, 16), num_layers=1, latent_channels=4, prompt_width=8
                ),
                stable_diffusion_schedule(),
                EmptyPrompt(2, 8),
                name="tiny-latent",
                version=str(seed),
            )

    @property
    def padding_multiple(self) -> int:
        """The autoencoder's factor times the network's own strides."""
        return latent_padding_multiple(self.vae, self.unet)

    @property
    def noise_layout(self) -> tuple[int, int]:
        """A value for each value of the latent."""
        return int(self.vae.config.latent_channels), latent_factor(self.vae)

    def reconstruct(self, images: Tensor, *, run: Run = run_directly) -> Tensor:
        """The autoencoder's round trip alone, as a baseline: no noise, no network.

        Args:
            images: (B, 3, H, W) float in [0, 1], any H and W.
            run: Calls encoder and decoder, as in ``purify_with_gradient``.

        Returns:
            (B, 3, H, W) in [0, 1], in the images' dtype.

        Raises:
            ValueError: Wrong shape or dtype.
        """
        latents = run(encode, self.vae, self._padded(images))
        return self._cropped(run(decode, self.vae, latents), images)

    def _purify_padded(
        self, images: Tensor, levels: Sequence[Level], noises: Iterable[Tensor], run: Run
    ) -> Tensor:
        prompt = self.empty_prompt(images.shape[0]).to(images.dtype)
        latents = run(encode, self.vae, images).to(images.dtype)
        for level, noise in zip(levels, noises, strict=True):
            timesteps = timesteps_of(self.scheduler, level, 1, latents.device)
            noisy = add_noise(self.scheduler, latents, timesteps, noise)
            latents = run(predict_clean, self.unet, self.scheduler, noisy, timesteps, prompt)
        return run(decode, self.vae, latents)
