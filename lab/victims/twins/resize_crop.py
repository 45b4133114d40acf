"""The twin of processors that resize and crop: CLIP, SigLIP, ViT, LLaVA, and ImageNet's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from PIL.Image import Resampling
from torch import Tensor

from codefend.lab.victims.resample import resize_like_pillow
from codefend.lab.victims.twins.pixel_scale import PixelScale

__all__ = ["ResizeCrop"]

_WITHOUT_A_TWIN = (
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
        for unknown in _WITHOUT_A_TWIN:
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
