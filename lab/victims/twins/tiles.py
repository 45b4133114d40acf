"""The twin of Idefics3's and SmolVLM's processor: an image in tiles, and once more as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    get_resize_output_image_size,
)

from codefend.lab.victims.resample import resize_like_pillow
from codefend.lab.victims.twins.pixel_scale import PixelScale

__all__ = ["Tiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Resize to the longest edge, cut into square tiles, and append the whole image as one more.

    Attributes:
        longest_edge: length of the longer edge after the first resize; None where ``size`` decides
            or nothing is resized.
        size: fixed (height, width) after the first resize, or None.
        tile_px: side of a tile, and of the whole image behind them.
        split: whether an image larger than a tile is cut at all; else it is squeezed into one.
        masked: whether a padding mask goes with the tiles. It is all ones: images of one batch
            have one size, so none is padded.
        resample: Pillow's filter.
        scale: rescaling and normalisation.
    """

    longest_edge: int | None
    size: tuple[int, int] | None
    tile_px: int
    split: bool
    masked: bool
    resample: Resampling
    scale: PixelScale

    @classmethod
    def from_processor(cls, image_processor: Any) -> Tiles:
        """Reads the settings of a stock image processor.

        Raises:
            ValueError: where it sizes images or tiles in another way.
        """
        name = type(image_processor).__name__
        size = {key: value for key, value in dict(image_processor.size).items() if value}
        if not image_processor.do_resize:
            size = {}
        elif set(size) not in ({"longest_edge"}, {"height", "width"}):
            raise ValueError(f"{name}: size {size} is not supported")
        tile = {key: value for key, value in dict(image_processor.max_image_size).items() if value}
        if set(tile) != {"longest_edge"}:
            raise ValueError(f"{name}: max_image_size {tile} is not supported")
        return cls(
            longest_edge=size.get("longest_edge"),
            size=(size["height"], size["width"]) if "height" in size else None,
            tile_px=tile["longest_edge"],
            split=bool(image_processor.do_image_splitting),
            masked=bool(image_processor.do_pad),
            resample=Resampling(int(image_processor.resample)),
            scale=PixelScale.from_processor(image_processor),
        )

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Cuts images that share one size.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            ``pixel_values`` (B, num_tiles, 3, tile_px, tile_px): row by row, the whole image last;
            and, where masked, ``pixel_attention_mask`` (B, num_tiles, tile_px, tile_px) int64.
        """
        pixels = images * 255.0
        if self.longest_edge is not None:
            resized = get_resize_output_image_size(pixels, self.longest_edge)
            pixels = self._resize(pixels, *resized)
        elif self.size is not None:
            pixels = self._resize(pixels, *self.size)
        tiles = self.scale(torch.stack(self._cut(pixels), dim=1)).contiguous()  # for .view()
        outputs = {"pixel_values": tiles}
        if self.masked:
            shape = (*tiles.shape[:2], *tiles.shape[3:])
            outputs["pixel_attention_mask"] = torch.ones(
                shape, dtype=torch.long, device=images.device
            )
        return outputs

    def _cut(self, pixels: Tensor) -> list[Tensor]:
        side = self.tile_px
        if not self.split:
            return [self._resize(pixels, side, side)]
        pixels = self._resize(pixels, *self._whole_tiles(*pixels.shape[-2:]))
        height, width = pixels.shape[-2:]
        if (height, width) == (side, side):
            return [pixels]
        tiles = [
            pixels[..., top : top + side, left : left + side]
            for top in range(0, height, side)
            for left in range(0, width, side)
        ]
        return [*tiles, self._resize(pixels, side, side)]

    def _whole_tiles(self, height: int, width: int) -> tuple[int, int]:
        """The size in whole tiles; the shorter edge follows the longer before it is rounded up."""
        side, aspect = self.tile_px, width / height
        if width >= height:
            width = math.ceil(width / side) * side
            return math.ceil(int(width / aspect) / side) * side, width
        height = math.ceil(height / side) * side
        return height, math.ceil(int(height * aspect) / side) * side

    def _resize(self, pixels: Tensor, height: int, width: int) -> Tensor:
        if (height, width) == tuple(pixels.shape[-2:]):
            return pixels
        return resize_like_pillow(pixels, height, width, self.resample)
