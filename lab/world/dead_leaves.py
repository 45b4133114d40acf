"""Dead leaves: pictures of occluding, textured shapes of every size, without end or licence.

Our own implementation of what VibrantLeaves (Achddou et al. 2025, arXiv 2504.10201) describes: the
model of Lee, Mumford & Huang 2001 (sizes by a power law, so that statistics do not change with
scale) with varied shapes, textures inside them, and depth of field. Deviations: colours come from
a random palette, not from photographs; textures are noise of a random slope, waves and blots;
perspective is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["dead_leaves"]

_SUPERSAMPLING = 2
_NUM_LEAVES = 400  # covers the plane three times over
_SLOPE = 3.0  # of the sizes' power law: r to the minus three is scale-free
_SMALLEST_RADIUS = 0.03  # of the side
_LARGEST_RADIUS = 0.6
_NUM_TEXTURES = 4

Floats = NDArray[np.float64]


def dead_leaves(size_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One picture (size, size, 3) uint8.

    Args:
        size_px: its side.
        rng: of everything in it.
    """
    side = size_px * _SUPERSAMPLING
    palette = _palette(rng)
    textures = [np.tile(_texture(side, rng), (2, 2)) for _ in range(_NUM_TEXTURES)]
    canvas = _painted(textures[0][:side, :side], palette, rng)
    radii = np.sort(_radii(rng) * side)[::-1]
    # Large leaves lie behind as often as in front: the order is only partly that of size.
    order = np.argsort(np.arange(_NUM_LEAVES) + rng.normal(0, _NUM_LEAVES, _NUM_LEAVES))
    focus = int(rng.integers(_NUM_LEAVES)) if rng.random() < 0.5 else -1
    for number, leaf in enumerate(order):
        if number == focus:
            canvas = _defocused(canvas, float(rng.uniform(0.5, 4.0)))
        _lay(canvas, float(radii[leaf]), textures, palette, rng)
    image = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BOX))


def _radii(rng: np.random.Generator) -> Floats:
    """Inverse transform of the power law between the two bounds."""
    exponent = 1.0 - _SLOPE
    low, high = _SMALLEST_RADIUS**exponent, _LARGEST_RADIUS**exponent
    return np.asarray((low + rng.random(_NUM_LEAVES) * (high - low)) ** (1.0 / exponent))


def _palette(rng: np.random.Generator) -> Floats:
    """A dozen colours (12, 3) of a common cast: grey levels far apart, little chroma."""
    grey = 255.0 * rng.beta(1.1, 1.1, (12, 1))
    cast = rng.normal(0, 25, (1, 3))
    return np.asarray(grey + cast + rng.normal(0, float(rng.uniform(5, 60)), (12, 3)))


def _texture(side: int, rng: np.random.Generator) -> Floats:
    """(side, side) in [0, 1]: noise of a random spectral slope, waves, or blots of either."""
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    spectrum = np.fft.rfft2(rng.normal(size=(side, side)))
    spectrum /= np.maximum(frequencies, 1.0) ** float(rng.uniform(0.6, 2.2))
    field = np.fft.irfft2(spectrum, s=(side, side))
    field = (field - field.mean()) / (field.std() + 1e-9)
    if rng.random() < 0.4:  # waves, bent by the noise
        angle, length = rng.uniform(0, np.pi), rng.uniform(4, side / 4)
        rows, columns = np.mgrid[:side, :side]
        along = np.cos(angle) * rows + np.sin(angle) * columns
        field = np.sin(2 * np.pi * along / length + float(rng.uniform(0, 2)) * field)
    if rng.random() < 0.25:
        field = np.tanh(8.0 * field)
    return np.asarray((0.5 + 0.35 * field).clip(0, 1))


def _painted(texture: Floats, palette: Floats, rng: np.random.Generator) -> Floats:
    """Places of a texture (...,) as colours (..., 3) between two that may be near each other."""
    first, second = palette[rng.integers(len(palette), size=2)]
    contrast = float(rng.uniform(0, 1)) ** 2
    return np.asarray(first + contrast * texture[..., None] * (second - first))


def _lay(
    canvas: Floats,
    radius: float,
    textures: list[Floats],
    palette: Floats,
    rng: np.random.Generator,
) -> None:
    """Covers the canvas with one shape, in place."""
    side = len(canvas)
    centre = rng.uniform(-0.1, 1.1, 2) * side
    outline = centre + radius * _outline(rng)
    left, top = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 1, side)
    if right <= left or bottom <= top:
        return
    mask = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(mask).polygon([(float(x - left), float(y - top)) for x, y in outline], fill=255)
    inside = np.asarray(mask) > 0
    texture = textures[int(rng.integers(len(textures)))]
    row, column = (int(offset) for offset in rng.integers(side, size=2))
    place = texture[row : row + bottom - top, column : column + right - left]
    canvas[top:bottom, left:right][inside] = _painted(place[inside], palette, rng)


def _outline(rng: np.random.Generator) -> Floats:
    """(points, 2) about the origin: a polygon, or a smooth closed curve, stretched and turned."""
    if rng.random() < 0.4:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        reach = np.ones_like(angles)
    else:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        reach = np.ones_like(angles)
        for wave in range(2, 6):
            phase = rng.uniform(0, 2 * np.pi)
            reach += rng.uniform(0, 0.5) / wave * np.cos(wave * angles + phase)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    points[:, 0] *= float(np.exp(rng.uniform(np.log(0.25), 0)))
    turn = float(rng.uniform(0, 2 * np.pi))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(points @ rotation)


def _defocused(canvas: Floats, sigma_px: float) -> Floats:
    """What lies behind the plane of focus."""
    image = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma_px)), np.float64)
