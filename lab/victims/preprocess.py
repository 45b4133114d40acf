"""What a stock image processor does to an image, differentiably; attacks look through it.

Processors that cut tiles (Idefics3, SmolVLM) or lay patches flat (Qwen2-VL) are here; those that
resize and crop are in ``resizing``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL.Image import Resampling
from torch import Tensor
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from codefend.lab.victims.resizing import PixelScale, ResizeCrop, resize_like_pillow

__all__ = ["Patches", "Preprocess", "Tiles"]


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


class ImageSizing(Protocol):
    """One way of sizing images."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) float in [0, 1] to what the stock processor gives, by its names."""
        ...


@dataclass(frozen=True, slots=True)
class Preprocess:
    """A stock image processor, differentiably.

    Attributes:
        sizing: the way of sizing images that the processor has.
    """

    sizing: ImageSizing

    @classmethod
    def from_processor(cls, image_processor: Any) -> Preprocess:
        """Picks the sizing of a stock image processor and reads its settings.

        Idefics3 and SmolVLM cut tiles; Qwen2-VL and its successors lay patches flat; CLIP, SigLIP,
        ViT and LLaVA resize and crop, and so is every other processor taken whose settings say so.

        Raises:
            ValueError: where the processor does something not known here, or resizes with
                torchvision, whose result is another.
        """
        backend = getattr(image_processor, "backend", "pil")
        if backend != "pil":
            name = type(image_processor).__name__
            raise ValueError(f'{name} resizes with {backend}: load it with backend="pil"')
        if isinstance(image_processor, Idefics3ImageProcessorPil | SmolVLMImageProcessorPil):
            return cls(Tiles.from_processor(image_processor))
        if isinstance(image_processor, Qwen2VLImageProcessorPil):
            return cls(Patches.from_processor(image_processor))
        return cls(ResizeCrop.from_processor(image_processor))

    def inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Turns images into all that the model takes of them, keeping gradients.

        Args:
            images: (B, 3, H, W) float in [0, 1].

        Returns:
            ``pixel_values`` and what goes with them, by the stock processor's names, in its
            shapes; equal to the stock processor's for images that lie on the 256 levels.
        """
        return self.sizing(images)

    def __call__(self, images: Tensor) -> Tensor:
        """``pixel_values`` alone, in the stock processor's shape and the images' dtype."""
        return self.inputs(images)["pixel_values"]
