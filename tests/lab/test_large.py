"""The experiment's own parts: a page of any size, scenes as one picture, and the whole in small."""

import numpy as np
import pytest

from codefend.lab.baselines.defence import NO_DEFENCE
from codefend.lab.documents.kinds import WIDTH_PX
from codefend.lab.large import TEXT_SIZES_PX, _answers_of_parts, _area, _in_tiles, _Shown, sheet
from codefend.models.quantise import dequantise, quantise
from codefend.models.shrink import shrink
from codefend.models.tiles import Tiling


def test_a_sheet_is_full_of_lines_that_lie_where_it_says():
    page = sheet(900, 2 * WIDTH_PX)
    assert page.image.shape == (900, 2 * WIDTH_PX, 3)
    assert len(page.lines) > 2 * 9
    for line in page.lines:
        left, top, right, bottom = (round(edge) for edge in line.box)
        assert 0 <= left < right <= 2 * WIDTH_PX + TEXT_SIZES_PX[-1]
        inked = page.image[top:bottom, left:right]
        assert inked.min() < inked.max() - 50, line.text


def test_area_and_tiles_are_those_of_the_service():
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (1, 90, 120, 3), np.uint8)
    floats = dequantise(torch.from_numpy(pixels))
    generator = torch.Generator()
    scaled = quantise(_area(50).apply(floats, generator)).numpy()
    assert np.array_equal(scaled[0], shrink(pixels[0], 50))
    tiled = _in_tiles(NO_DEFENCE, Tiling(1, 64, 8))
    assert np.array_equal(quantise(tiled.apply(floats, generator)).numpy(), pixels)
    with pytest.raises(ValueError, match="at least one pixel"):
        _area(0)


def test_one_picture_is_cut_into_its_scenes_in_their_order(monkeypatch):
    images = [np.full((4, 4, 3), level, np.uint8) for level in range(6)]
    shown = [_Shown(image, [{"question": "?", "answer": str(n)}]) for n, image in enumerate(images)]
    monkeypatch.setattr(
        "codefend.lab.large.generate",
        lambda _, parts, prompts, **__: [[str(part[0, 0, 0])] for part in parts],
    )
    whole = np.concatenate([np.hstack(images[:3]), np.hstack(images[3:])])
    assert _answers_of_parts(None, 4, shown, [whole]) == [[1, 1]] * 6
    assert _answers_of_parts(None, 4, shown, images) == [[1, 1]] * 6
