"""The twin of Qwen2-VL's processor: an image of any shape as one flat sequence of patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from codefend.lab.victims.resample import resize_like_pillow
from codefend.lab.victims.twins.pixel_scale import PixelScale

__all__ = ["Patches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """Resize to whole groups of patches within a budget of pixels, then lay the patches flat.

    Attributes:
        resize: whether images are resized at all.
        min_pixels: fewest pixels after resizing.
        max_pixels: most pixels after resizing.
        patch_px: side of a patch.
        merge: how many patches on a side become one image token; they lie next to each other.
        frames: how often the still image is repeated in time inside a patch.
        resample: Pillow's filter.
        scale: rescaling and normalisation.
    """

    resize: bool
    min_pixels: int
    max_pixels: int
    patch_px: int
    merge: int
    frames: int
    resample: Resampling
    scale: PixelScale

    @classmethod
    def from_processor(cls, image_processor: Any) -> Patches:
        """Reads the settings of a stock image processor.

        Raises:
            ValueError: where its size is not a range of pixels.
        """
        size = {key: value for key, value in dict(image_processor.size).items() if value}
        if set(size) != {"shortest_edge", "longest_edge"}:
            raise ValueError(f"{type(image_processor).__name__}: size {size} is not supported")
        return cls(
            resize=bool(image_processor.do_resize),
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
            patch_px=image_processor.patch_size,
            merge=image_processor.merge_size,
            frames=image_processor.temporal_patch_size,
            resample=Resampling(int(image_processor.resample)),
            scale=PixelScale.from_processor(image_processor),
        )

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Lays out images that share one size.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            ``pixel_values`` (B * num_patches, 3 * frames * patch_px²), image by image, and
            ``image_grid_thw`` (B, 3) int64: frames, rows and columns of patches.

        Raises:
            ValueError: where images are not resized and are not whole groups of patches.
        """
        pixels = images * 255.0
        group_px = self.patch_px * self.merge
        height, width = (int(side) for side in images.shape[-2:])
        if self.resize:
            height, width = smart_resize(
                height, width, group_px, min_pixels=self.min_pixels, max_pixels=self.max_pixels
            )
        elif height % group_px or width % group_px:
            raise ValueError(f"{height}×{width} pixels are not whole groups of {group_px} pixels")
        if (height, width) != tuple(pixels.shape[-2:]):
            pixels = resize_like_pillow(pixels, height, width, self.resample)
        grid = [1, height // self.patch_px, width // self.patch_px]
        return {
            "pixel_values": self._lay_flat(self.scale(pixels)),
            "image_grid_thw": torch.tensor([grid] * len(images), device=images.device),
        }

    def _lay_flat(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) to (B * num_patches, patch): the patches of a group follow one another."""
        batch, channels, height, width = pixels.shape
        patch, merge = self.patch_px, self.merge
        rows, columns = height // (patch * merge), width // (patch * merge)
        grouped = pixels.reshape(batch, channels, rows, merge, patch, columns, merge, patch)
        # Groups row by row, a group's patches row by row; in a patch channels, frames, pixels.
        patches = grouped.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        patches = patches.expand(-1, -1, -1, -1, -1, -1, self.frames, -1, -1)
        return patches.reshape(-1, channels * self.frames * patch * patch)
