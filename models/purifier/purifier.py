"""What every kind of purifier has in common: the call, its checks, padding and cropping.

A pixel purifier (``codefend.models.purifier.pipeline``) and a latent one
(``codefend.models.purifier.latent``) fill in what happens to a padded batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Generator, Tensor
from torch.nn import functional

from codefend.models.purifier.strengths import Strength, noise_levels

__all__ = ["Level", "Purifier", "Run", "run_directly"]

Level = float | Tensor
"""A noise level: a number, or a tensor () where it is an input of a captured network."""

Run = Callable[..., Tensor]
"""Calls a function without randomness on its arguments, now or (for memory's sake) once more."""


def run_directly(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """``function(*arguments)``: a backward pass then keeps all activations."""
    return function(*arguments)


class Purifier(DiffusionPipeline):  # type: ignore[misc]
    """A purifier of any kind in the ``diffusers`` format.

    Its configuration holds ``noise_level``, ``num_steps``, ``name`` and ``version``.
    """

    @property
    @abstractmethod
    def padding_multiple(self) -> int:
        """Sides of a padded batch are multiples of this."""

    @property
    @abstractmethod
    def noise_layout(self) -> tuple[int, int]:
        """Channels of the noise, and the pixels a side that one of its values stands for."""

    @property
    def strengths(self) -> tuple[Strength, ...]:
        """Those that it has: where noise is on a scale of another kind, only its own level is."""
        return (Strength.STANDARD,)

    @abstractmethod
    def _purify_padded(
        self, images: Tensor, levels: Sequence[Level], noises: Iterable[Tensor], run: Run
    ) -> Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of ``padding_multiple``, to the same shape.

        It draws nothing itself: ``noises`` has one tensor for each level.
        """

    def noise_shape(self, num_images: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Of one level's noise, for a batch of images of one size, padding included."""
        channels, factor = self.noise_layout
        rows, columns = (_padded_side(side, self.padding_multiple) for side in (height, width))
        return num_images, channels, rows // factor, columns // factor

    @torch.no_grad()
    def purify(
        self,
        images: Tensor,
        generator: Generator | None = None,
        *,
        num_steps: int | None = None,
        noise_level: float | None = None,
    ) -> Tensor:
        """Purify a batch.

        Args:
            images: (B, 3, H, W) float in [0, 1], any H and W.
            generator: Source of the noise, on the images' device; None draws fresh noise.
            num_steps: Denoising steps, at least 1; None takes the pipeline's.
            noise_level: How much noise, in (0, 1], on the kind's own scale; None takes the
                pipeline's.

        Returns:
            (B, 3, H, W) in [0, 1], in the images' dtype.

        Raises:
            ValueError: Wrong shape, dtype, step count or noise level.
        """
        return self.purify_with_gradient(
            images, generator, num_steps=num_steps, noise_level=noise_level
        )

    def purify_with_gradient(
        self,
        images: Tensor,
        generator: Generator | None = None,
        *,
        num_steps: int | None = None,
        noise_level: float | None = None,
        run: Run = run_directly,
    ) -> Tensor:
        """As ``purify``, recording gradients: what training and white-box attackers call.

        ``run`` calls each step of the network; an attacker short of memory passes one that computes
        its activations again in the backward pass.
        """
        levels = noise_levels(
            self.config.noise_level if noise_level is None else noise_level,
            self.config.num_steps if num_steps is None else num_steps,
        )
        shape = self.noise_shape(len(images), *images.shape[-2:])
        noises = (
            torch.randn(shape, generator=generator, device=images.device, dtype=self.unet.dtype)
            for _ in levels
        )
        purified = self.purify_given(images, levels, noises, run=run)
        return purified.clamp(0, 1).to(images.dtype)

    def purify_given(
        self,
        images: Tensor,
        levels: Sequence[Level],
        noises: Iterable[Tensor],
        *,
        run: Run = run_directly,
    ) -> Tensor:
        """As ``purify_with_gradient``, with the noise given; clamped to no range.

        Args:
            images: (B, 3, H, W) float in [0, 1], any H and W.
            levels: Of ``noise_levels``.
            noises: For each level normal noise of ``noise_shape``, in the network's precision.
            run: Calls each step of the network.

        Returns:
            (B, 3, H, W), about [0, 1], in the network's precision.

        Raises:
            ValueError: Wrong shape or dtype, or not one noise a level.
        """
        return _crop(self._purify_padded(self._padded(images), levels, noises, run), images)

    def _padded(self, images: Tensor) -> Tensor:
        """Checks a batch, and brings it to the network's precision and to sides it can halve."""
        _check(images)
        return _pad(images.to(self.unet.dtype), self.padding_multiple)

    @staticmethod
    def _cropped(purified: Tensor, images: Tensor) -> Tensor:
        """Undoes ``_padded``: size, range and precision of the batch as it came."""
        return _crop(purified, images).clamp(0, 1).to(images.dtype)

    def __call__(self, images: Tensor, **options: Any) -> Tensor:
        """The ``diffusers`` way to call ``purify``."""
        return self.purify(images, **options)


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be float in [0, 1], not {images.dtype}")


def _pad(images: Tensor, multiple: int) -> Tensor:
    """Reflect (or, for images smaller than the padding, repeat the edge) up to a multiple."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == right == 0:
        return images
    mode = "reflect" if bottom < height and right < width else "replicate"
    return functional.pad(images, (0, right, 0, bottom), mode=mode)


def _padded_side(side: int, multiple: int) -> int:
    return side + -side % multiple


def _crop(images: Tensor, like: Tensor) -> Tensor:
    """Undoes ``_pad``."""
    height, width = like.shape[-2:]
    return images if images.shape[-2:] == like.shape[-2:] else images[..., :height, :width]
