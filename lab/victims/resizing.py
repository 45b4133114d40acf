"""Resize, crop and scale as stock image processors do, differentiably.

Pillow's resampling with gradients, the last step of every processor (levels to the numbers that a
network was trained on), and the processors that do no more than resize and crop: CLIP, SigLIP, ViT,
LLaVA, and ImageNet's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

__all__ = ["PixelScale", "ResizeCrop", "resize_like_pillow"]


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(1.0 - np.abs(x), 0.0))


def _bicubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


_KERNELS: dict[Resampling, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    Resampling.BILINEAR: (_bilinear, 1.0),
    Resampling.BICUBIC: (_bicubic, 2.0),
    Resampling.LANCZOS: (_lanczos, 3.0),
}


@lru_cache(maxsize=64)
def _resample_matrix(num_in: int, num_out: int, resample: Resampling) -> Tensor:
    """The weights (num_out, num_in) with which Pillow filters one axis."""
    kernel, support = _KERNELS[resample]
    scale = num_in / num_out
    filter_scale = max(scale, 1.0)
    reach = support * filter_scale
    matrix = np.zeros((num_out, num_in))
    for row in range(num_out):
        center = (row + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        last = min(int(center + reach + 0.5), num_in)
        weights = kernel((np.arange(first, last) - center + 0.5) / filter_scale)
        matrix[row, first:last] = weights / weights.sum()
    return torch.from_numpy(matrix)


def resize_like_pillow(
    pixels: Tensor, height: int, width: int, resample: Resampling = Resampling.BICUBIC
) -> Tensor:
    """Resizes with ``PIL.Image.resize`` itself; gradients are those of its linear filters.

    Pillow rounds to whole levels before, between and behind its two passes, and which pass comes
    first differs by version and size. So its own result is the value, and the roundings pass
    gradients straight through.

    Args:
        pixels: (B, C, H, W) float in [0, 255].
        height: height of the result.
        width: width of the result.
        resample: bilinear, bicubic or Lanczos.

    Returns:
        (B, C, height, width), of the same dtype, whole numbers in [0, 255].

    Raises:
        ValueError: for a filter other than the three.
    """
    if resample not in _KERNELS:
        raise ValueError(f"no differentiable version of Pillow's filter {resample!r}")
    exact = _resize_with_pillow(pixels.detach(), height, width, resample)
    if not pixels.requires_grad:
        return exact
    rows = _resample_matrix(pixels.shape[-2], height, resample).to(pixels)
    columns = _resample_matrix(pixels.shape[-1], width, resample).to(pixels)
    linear = rows @ pixels @ columns.T
    return linear + (exact - linear).detach()


def _resize_with_pillow(pixels: Tensor, height: int, width: int, resample: Resampling) -> Tensor:
    levels = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    resized = [
        np.asarray(Image.fromarray(image).resize((width, height), resample)) for image in levels
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelScale:
    """Rescales, then normalises.

    Attributes:
        rescale_factor: what whole levels in [0, 255] are multiplied by.
        mean: per-channel mean, subtracted after rescaling.
        std: per-channel standard deviation, divided by last.
    """

    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_processor(cls, image_processor: Any) -> PixelScale:
        """Reads the settings of any stock image processor."""
        rescale = image_processor.rescale_factor if image_processor.do_rescale else 1.0
        normalize = bool(image_processor.do_normalize)
        return cls(
            rescale_factor=float(rescale),
            mean=tuple(image_processor.image_mean) if normalize else (0.0, 0.0, 0.0),
            std=tuple(image_processor.image_std) if normalize else (1.0, 1.0, 1.0),
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """(..., 3, h, w) levels in [0, 255] to the network's numbers, same shape and dtype."""
        mean = _per_channel(self.mean, pixels.dtype, pixels.device)
        return (pixels * self.rescale_factor - mean) / _per_channel(
            self.std, pixels.dtype, pixels.device
        )


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, 1, 1); kept, because a copy to a GPU at every step would make the attack wait."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


_UNSUPPORTED = (
    "do_pad",
    "do_image_splitting",
    "do_thumbnail",
    "do_pan_and_scan",
    "crop_to_patches",
    "image_grid_pinpoints",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeCrop:
    """Resize, center crop, rescale and normalise, in the order of a stock image processor.

    Attributes:
        height: fixed height after resizing; None where the shorter edge decides.
        width: fixed width after resizing; None where the shorter edge decides.
        shortest_edge: length of the shorter edge after resizing, aspect ratio kept.
        resample: Pillow's filter.
        crop: (height, width) of the center crop, or None.
        scale: rescaling and normalisation.
    """

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    resample: Resampling
    crop: tuple[int, int] | None
    scale: PixelScale

    @classmethod
    def from_processor(cls, image_processor: Any) -> ResizeCrop:
        """Reads the settings of a stock image processor.

        Raises:
            ValueError: where the processor pads, splits or sizes images in another way.
        """
        name = type(image_processor).__name__
        for unknown in _UNSUPPORTED:
            if getattr(image_processor, unknown, None):
                raise ValueError(f"{name}: {unknown} is not supported")
        resize = bool(getattr(image_processor, "do_resize", False))
        size = dict(image_processor.size) if resize else {}
        size = {key: value for key, value in size.items() if value is not None}
        if resize and set(size) not in ({"height", "width"}, {"shortest_edge"}):
            raise ValueError(f"{name}: size {size} is not supported")
        crop = None
        if getattr(image_processor, "do_center_crop", False):
            crop_size = dict(image_processor.crop_size)
            crop = (crop_size["height"], crop_size["width"])
        return cls(
            height=size.get("height"),
            width=size.get("width"),
            shortest_edge=size.get("shortest_edge"),
            resample=Resampling(int(image_processor.resample)),
            crop=crop,
            scale=PixelScale.from_processor(image_processor),
        )

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) float in [0, 1] to ``pixel_values`` (B, 3, h, w)."""
        pixels = images * 255.0
        height, width = self._resized_size(images.shape[-2], images.shape[-1])
        if (height, width) != tuple(images.shape[-2:]):
            pixels = resize_like_pillow(pixels, height, width, self.resample)
        if self.crop is not None:
            pixels = _center_crop(pixels, *self.crop)
        return {"pixel_values": self.scale(pixels)}

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if self.height is not None and self.width is not None:
            return self.height, self.width
        if self.shortest_edge is None:
            return height, width
        longest = int(self.shortest_edge * max(height, width) / min(height, width))
        return (longest, self.shortest_edge) if width <= height else (self.shortest_edge, longest)


def _center_crop(pixels: Tensor, crop_height: int, crop_width: int) -> Tensor:
    """The processor's crop: zeros around an image that is smaller than the crop."""
    height, width = pixels.shape[-2:]
    pad_height, pad_width = max(crop_height - height, 0), max(crop_width - width, 0)
    if pad_height or pad_width:
        top, left = -(-pad_height // 2), -(-pad_width // 2)
        pixels = F.pad(pixels, (left, pad_width - left, top, pad_height - top))
    top = (pixels.shape[-2] - crop_height) // 2
    left = (pixels.shape[-1] - crop_width) // 2
    return pixels[..., top : top + crop_height, left : left + crop_width]
