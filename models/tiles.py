"""Cuts pictures that are too large for one piece into overlapping tiles, and lays these together.

Pure geometry and blending: the queue counts tiles, the purifier's worker cuts and lays them, and
the laboratory measures the same. Imports no torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codefend.models.buckets import BUCKET_STEP_PX

__all__ = ["Tile", "Tiling"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture.

    Attributes:
        top: Its first row.
        left: Its first column.
        height: Rows, at least 1.
        width: Columns, at least 1.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns, as they index a picture (H, W, ...)."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)

    def intersect(self, other: "Tile") -> "Tile | None":
        """What it has in common with another tile; None where that is nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.height, other.top + other.height)
        right = min(self.left + self.width, other.left + other.width)
        return (
            Tile(top, left, bottom - top, right - left) if top < bottom and left < right else None
        )

    def within(self, other: "Tile") -> tuple[slice, slice]:
        """Its rows and columns, as they index the pixels of a tile that holds it."""
        return Tile(self.top - other.top, self.left - other.left, self.height, self.width).place


@dataclass(frozen=True, slots=True)
class Tiling:
    """How pictures are cut.

    Attributes:
        whole_px: A picture whose longer side is no longer than this stays in one piece.
        side_px: Longest side of a tile, a multiple of 64.
        overlap_px: Least rows and columns that neighbours share, from 1 to half a side; over so
            many pixels a tile fades into its neighbours.
    """

    whole_px: int = 1024
    side_px: int = 192
    overlap_px: int = 16

    def __post_init__(self) -> None:
        if self.whole_px < 1 or self.side_px < 1 or self.side_px % BUCKET_STEP_PX:
            msg = f"a tile's side is a positive multiple of {BUCKET_STEP_PX}: {self}"
            raise ValueError(msg)
        if not 1 <= self.overlap_px <= self.side_px // 2:
            msg = f"tiles overlap by at least one pixel, and at most by half of their side: {self}"
            raise ValueError(msg)

    def cut(self, height: int, width: int) -> tuple[Tile, ...]:
        """Covers a picture with tiles, row by row.

        All tiles of a picture have one shape, so that they share batches, and lie at even
        distances. No tile reaches beyond the picture.

        Args:
            height: Rows of the picture, at least 1.
            width: Columns of the picture, at least 1.

        Returns:
            One tile, as large as the picture, where that stays in one piece.

        Raises:
            ValueError: A side is below 1.
        """
        return _cut(self, height, width)

    def neighbours(self, height: int, width: int, number: int) -> tuple[int, ...]:
        """Which other tiles of a picture share pixels with one of them.

        Args:
            height: Rows of the picture.
            width: Columns of the picture.
            number: Of the tile, in the order of `cut`.
        """
        return _neighbours(self, height, width)[number]

    def lay(
        self,
        picture: NDArray[np.uint8],
        pixels: NDArray[np.uint8],
        tile: Tile,
        laid: Iterable[Tile] = (),
    ) -> None:
        """Lays one tile's pixels into a picture, over those that are laid already.

        A pixel of several tiles becomes their mean, weighted by how far it lies from the edge of
        each; in which order they are laid matters no more than the rounding to whole levels does.

        Args:
            picture: (H, W, 3) uint8, changed in place.
            pixels: (tile.height, tile.width, 3) uint8.
            tile: Where it belongs.
            laid: All tiles whose pixels lie in the picture already, and no others.
        """
        present = picture[tile.place]
        own = self._weights(tile)
        others = np.zeros_like(own)
        for other in laid:
            part = tile.intersect(other)
            if part is not None:
                others[part.within(tile)] += self._weights(other)[part.within(other)]
        if not others.any():
            present[:] = pixels
            return
        share = (own / (own + others))[..., np.newaxis]
        # Where nothing lies yet the share is 1, and what was there before counts for nothing.
        present[:] = np.rint(present + share * (pixels.astype(np.float32) - present))

    def apply(
        self,
        function: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
        picture: NDArray[np.uint8],
    ) -> NDArray[np.uint8]:
        """Runs a function on each tile of a picture, and lays what it gives together.

        Args:
            function: From (h, w, 3) uint8 to the same shape and type.
            picture: (H, W, 3) uint8.
        """
        whole = np.empty_like(picture)
        tiles = self.cut(*picture.shape[:2])
        for number, tile in enumerate(tiles):
            self.lay(whole, function(picture[tile.place]), tile, tiles[:number])
        return whole

    def _weights(self, tile: Tile) -> NDArray[np.float32]:
        """(height, width) in (0, 1]: falls towards the edges."""
        rows = _ramp(tile.height, self.overlap_px)
        return rows[:, np.newaxis] * _ramp(tile.width, self.overlap_px)


@lru_cache(maxsize=64)
def _cut(tiling: Tiling, height: int, width: int) -> tuple[Tile, ...]:
    if min(height, width) < 1:
        msg = f"a picture has at least one pixel, not {width}x{height}"
        raise ValueError(msg)
    if max(height, width) <= tiling.whole_px:
        return (Tile(0, 0, height, width),)
    rows, tile_height = _spread(height, tiling)
    columns, tile_width = _spread(width, tiling)
    return tuple(Tile(top, left, tile_height, tile_width) for top in rows for left in columns)


@lru_cache(maxsize=64)
def _neighbours(tiling: Tiling, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    tiles = tiling.cut(height, width)
    corners = np.array([(tile.top, tile.left) for tile in tiles])
    shape = np.array([tiles[0].height, tiles[0].width])
    found = []
    for number, corner in enumerate(corners):
        shares = (np.abs(corners - corner) < shape).all(axis=1)
        shares[number] = False
        found.append(tuple(np.flatnonzero(shares).tolist()))
    return tuple(found)


def _spread(length_px: int, tiling: Tiling) -> tuple[list[int], int]:
    """Where the tiles of one axis begin, and how long they are: no longer than is needed."""
    side_px, overlap_px = tiling.side_px, tiling.overlap_px
    if length_px <= side_px:
        return [0], length_px
    num = -(-(length_px - overlap_px) // (side_px - overlap_px))
    needed_px = -(-(length_px + (num - 1) * overlap_px) // num)
    tile_px = min(length_px, -(-needed_px // BUCKET_STEP_PX) * BUCKET_STEP_PX)
    return [(length_px - tile_px) * index // (num - 1) for index in range(num)], tile_px


@lru_cache(maxsize=64)
def _ramp(length_px: int, overlap_px: int) -> NDArray[np.float32]:
    """Rises over the overlap from one end, and falls to the other."""
    from_edge = np.minimum(np.arange(1, length_px + 1), np.arange(length_px, 0, -1))
    ramp: NDArray[np.float32] = (np.minimum(from_edge, overlap_px) / overlap_px).astype(np.float32)
    ramp.flags.writeable = False  # it is shared
    return ramp
