"""Draws layouts: backgrounds, objects and signs become images and dense labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from codefend.lab.errors import LabError
from codefend.lab.world.layout import KINDS, SIGN_WORDS, Layout, Placed, Split
from codefend.lab.world.splits import split_photos

__all__ = ["World"]


class World:
    """Photos, sprites and signs in memory, or on the device that composes them.

    Attributes:
        photos: For each split, (3, H, W) uint8 tensors with a short side of 512 px.
        photo_paths: For each split, where each photo came from.
        class_names: Label 0 is background; then every kind, then every sign word.
    """

    def __init__(self, path: Path, *, device: torch.device | str = "cpu") -> None:
        """Read a world file made by ``codefend-lab data build``.

        Args:
            path: The file.
            device: Where scenes are composed.

        Raises:
            LabError: There is no such file.
        """
        if not path.exists():
            raise LabError(f"{path} does not exist; make it with: codefend-lab data build")
        packed = np.load(path)
        self._device = torch.device(device)
        paths = [str(name) for name in packed["photo_paths"]]
        shares = split_photos(paths)
        self.photo_paths: dict[Split, list[str]] = {
            split: [paths[index] for index in share] for split, share in shares.items()
        }
        self.photos: dict[Split, list[torch.Tensor]] = {
            split: [_chw(packed[f"photo_{index:04d}"]).to(device) for index in share]
            for split, share in shares.items()
        }
        self._backgrounds = {
            split: [_halve(photo) for photo in photos] for split, photos in self.photos.items()
        }
        self._sprites = {
            name.split("_", 1)[1]: _premultiplied(packed[name]).to(device)
            for name in packed.files
            if name.startswith(("sprite_", "sign_"))
        }
        self.class_names: tuple[str, ...] = (
            "background",
            *(kind.name for kind in KINDS),
            *(f"sign {word}" for word in SIGN_WORDS),
        )
        self._class_of = {name: index for index, name in enumerate(self.class_names)}

    def compose(
        self, layouts: Sequence[Layout], split: Split, *, size_px: int = 128
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw ``layouts`` on the photos of ``split``.

        Returns:
            Images (B, 3, size, size) uint8, and labels (B, size, size) uint8 that index
            ``class_names`` (an unreadable sign counts as background), both on the world's device.
        """
        images = torch.empty(len(layouts), 3, size_px, size_px, device=self._device)
        labels = torch.zeros_like(images[:, 0], dtype=torch.uint8)
        for image, label, layout in zip(images, labels, layouts, strict=True):
            image.copy_(self._background(layout, split, size_px))
            for placed in layout.objects:
                self._draw(image, label, placed, self._sprites[placed.name], placed.name)
            self._draw_sign(image, label, layout)
        return images.mul_(255).round_().clamp_(0, 255).to(torch.uint8), labels

    def _background(self, layout: Layout, split: Split, size_px: int) -> torch.Tensor:
        large = self.photos if size_px > 192 else self._backgrounds
        photo = large[split][layout.photo]
        _, height, width = photo.shape
        left, top, share = layout.crop
        side = round(min(height, width) * share)
        top_px, left_px = round(top * (height - side)), round(left * (width - side))
        window = photo[:, top_px : top_px + side, left_px : left_px + side].float() / 255
        if layout.mirrored:
            window = window.flip(-1)
        return functional.interpolate(
            window[None], (size_px, size_px), mode="bilinear", antialias=True
        )[0]

    def _draw_sign(self, image: torch.Tensor, label: torch.Tensor, layout: Layout) -> None:
        sign = layout.sign
        if sign is None:
            return
        sprite = self._sprites[f"{sign.name}_{layout.sign_face}"]
        if layout.sign_blur:
            small = functional.avg_pool2d(sprite[None], 16)
            sprite = functional.interpolate(small, sprite.shape[-2:], mode="bilinear")[0]
        self._draw(image, label, sign, sprite, None if layout.sign_blur else f"sign {sign.name}")

    def _draw(
        self,
        image: torch.Tensor,
        label: torch.Tensor,
        placed: Placed,
        sprite: torch.Tensor,
        class_name: str | None,
    ) -> None:
        """Lay one premultiplied sprite over ``image`` in place (the "over" operator)."""
        size_px = image.shape[-1]
        reach = math.ceil(placed.side * size_px * (abs(math.cos(0.5)) + abs(math.sin(0.5))))
        left = round(placed.x * size_px - reach / 2)
        top = round(placed.y * size_px - reach / 2)
        patch = _sample_sprite(sprite, placed, reach, placed.side * size_px)
        rows = slice(max(top, 0), min(top + reach, size_px))
        columns = slice(max(left, 0), min(left + reach, size_px))
        patch = patch[
            :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        color, alpha = patch[:3], patch[3:]
        region = image[:, rows, columns]
        region.mul_(1 - alpha).add_(color, alpha=placed.brightness)
        index = self._class_of[class_name] if class_name else 0
        label[rows, columns].masked_fill_(alpha[0] > 0.5, index)


def _sample_sprite(
    sprite: torch.Tensor, placed: Placed, reach_px: int, side_px: float
) -> torch.Tensor:
    """The sprite scaled, turned and perhaps mirrored into a (4, reach, reach) patch."""
    scale = reach_px / side_px
    cosine, sine = math.cos(placed.angle) * scale, math.sin(placed.angle) * scale
    mirror = -1.0 if placed.flipped else 1.0
    rows = [[cosine * mirror, -sine * mirror, 0.0], [sine, cosine, 0.0]]
    theta = torch.tensor([rows], device=sprite.device)
    grid = functional.affine_grid(theta, [1, 4, reach_px, reach_px], align_corners=False)
    return functional.grid_sample(sprite[None], grid, align_corners=False)[0]


def _chw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def _halve(photo: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(photo.float(), 2).round().to(torch.uint8)


def _premultiplied(sprite: np.ndarray) -> torch.Tensor:
    rgba = _chw(sprite).float() / 255
    return torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
