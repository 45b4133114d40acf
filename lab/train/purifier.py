"""The one trainer of purifiers: pixel networks whole, latent ones by LoRA adapters.

Supervised diffusion purification with task guidance (CoDefend, arXiv 2510.11096): a base,
fine-tuned to give back the clean image in one step, on all of its sources in every step. In pixels
the loss is that of reconstruction and of a vision encoder's features; in latents one step leads
from the noised latent of the attacked image to that of the clean one (OSCP, CVPR 2025, on LCM, Luo
et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from codefend.lab.train.crops import PhotoSource
from codefend.lab.train.loop import LoopSettings, Step, begin, captured, train_loop
from codefend.lab.train.losses import LatentLoss, PurifierLoss, PurifierOptions
from codefend.lab.train.online import OnlineLoss, OnlineSource
from codefend.lab.train.sources import PairSource, SourceBatches, TrainingSource
from codefend.models.purifier.adapters import attach_adapters
from codefend.models.purifier.latent import LatentPurificationPipeline

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["PurifierTrainer"]

SourceLoss = Callable[[Any, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""A source and its batch, (B, 3, H, W) float in [0, 1] each, to the loss and its figures."""


@dataclass(frozen=True, slots=True)
class PurifierTrainer:
    """Trains a purifier of either kind, each source's step one CUDA graph where there is a GPU.

    Attributes:
        sources: What it learns from, all in every step.
        photos: For crops that nobody attacked.
        folder: Where the checkpoint goes.
        settings: Length and rates.
        seed: Of data, noise and adapters.
    """

    sources: Sequence[TrainingSource]
    photos: PhotoSource
    folder: Path
    settings: LoopSettings
    seed: int = 0

    def train_pixel(
        self,
        network: UNet2DModel,
        options: PurifierOptions,
    ) -> UNet2DModel:
        """Fine-tune ``network`` in place; the noise level is drawn anew for every image.

        Args:
            network: Starts as the base.
            options: What is minimised, and how it is computed.
        """
        device, dtype = begin(self.seed, shapes_repeat=all(s.is_fixed for s in self.sources))
        network.to(device, memory_format=torch.channels_last)
        if options.compiled:
            network.compile(dynamic=False)
        on_pairs = PurifierLoss(network, dtype, options)

        def loss(
            source: TrainingSource, clean: Tensor, attacked: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            if isinstance(source, OnlineSource):
                return OnlineLoss(network, dtype, source.options)(source, clean)
            assert isinstance(source, PairSource)  # noqa: S101 - there are no other kinds
            return on_pairs(source, clean, attacked)

        self._fit(network, loss, "purifier", device)
        return network

    def train_latent(
        self, pipeline: LatentPurificationPipeline, options: PurifierOptions
    ) -> PeftModel:
        """Tune adapters on the network of ``pipeline``; the level is drawn for every image.

        Args:
            pipeline: The base, which gains the adapters; all else in it stays as it is. Sides of
                the sources' images are multiples of its ``padding_multiple``.
            options: What the loss is.

        Returns:
            The adapters, for ``save_adapters``; the checkpoint is of them alone.

        Raises:
            ValueError: Images of a source have other sides.
        """
        _check_sides(self.sources, pipeline.padding_multiple)
        device, dtype = begin(self.seed)
        for component in (pipeline.vae, pipeline.unet, pipeline.empty_prompt):
            component.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        # A step that is captured as a CUDA graph may not wait for the schedule from the host.
        pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod.to(device)
        adapters = attach_adapters(pipeline.unet, rank=options.rank)
        trained = nn.ParameterList(p for p in adapters.parameters() if p.requires_grad)
        loss = LatentLoss(pipeline, dtype, options)
        self._fit(trained, loss, "latent-purifier", device)
        return adapters

    def _fit(self, module: nn.Module, loss: SourceLoss, name: str, device: torch.device) -> None:
        batches = SourceBatches(self.photos, self.sources, self.seed)
        steps = [_step_of(loss, source) for source in self.sources]
        for number, example in enumerate(batches[0]):
            if self.sources[number].is_fixed:
                steps[number] = captured(steps[number], [images.to(device) for images in example])

        def loss_of(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, dict[str, float]]:
            total = torch.zeros((), device=device)
            figures: dict[str, float] = {}
            for number, (step, images) in enumerate(zip(steps, batch, strict=True)):
                found = step(*(share.to(device) for share in images))
                total = total + self.sources[number].weight * found["loss"]
                named = {name: float(value) for name, value in found.items() if name != "loss"}
                figures |= {f"{name}{number or ''}": value for name, value in named.items()}
            return total, figures

        train_loop(
            module,
            batches,
            loss_of,
            self.settings,
            checkpoint=self.folder / f"{name}.pt",
            label=name,
            seed=self.seed,
        )


def _step_of(loss: SourceLoss, source: TrainingSource) -> Step:
    """What leaves one source's gradients, from its images (B, 3, H, W) uint8."""

    def step(clean: Tensor, attacked: Tensor) -> dict[str, Tensor]:
        value, figures = loss(source, clean.float() / 255, attacked.float() / 255)
        (source.weight * value).backward()  # type: ignore[no-untyped-call]
        return {"loss": value.detach(), **figures}

    return step


def _check_sides(sources: Sequence[TrainingSource], multiple: int) -> None:
    for source in sources:
        if not isinstance(source, PairSource):
            raise ValueError("latent purifiers learn from stored pairs alone")
        height, width = source.pairs.clean.shape[-2:]
        if height % multiple or width % multiple:
            raise ValueError(f"{height}x{width} pairs: sides must be multiples of {multiple}")
