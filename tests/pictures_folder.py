"""A folder of drawn pictures of several sizes, the same bytes wherever it is drawn."""

import numpy as np
from PIL import Image, ImageDraw


def draw_pictures(folder, num):
    """Pictures of coloured blocks and a disc; nothing in them depends on how Pillow resamples."""
    folder.mkdir(parents=True)
    for number in range(num):
        rng = np.random.default_rng(number)
        blocks = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        side = int(rng.integers(16, 30))
        image = Image.fromarray(np.kron(blocks, np.ones((side, side, 1), dtype=np.uint8)))
        left, top = (int(place) for place in rng.integers(0, side * 2, 2))
        color = tuple(int(level) for level in rng.integers(0, 256, 3))
        ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), fill=color)
        image.save(folder / f"picture{number:02d}.png", compress_level=0)
