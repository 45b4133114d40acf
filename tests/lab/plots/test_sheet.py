"""The sheet shows its pictures and what was said of them."""

import numpy as np
import pytest
from PIL import Image

from codefend.lab.plots.sheet import SheetPanel, SheetRow, difference_image, draw_sheet

RED = np.full((16, 16, 3), (200, 0, 0), np.uint8)
BLUE = np.full((16, 16, 3), (0, 0, 200), np.uint8)


def test_difference_is_grey_where_nothing_changed():
    other = RED.copy()
    other[0, 0] = (201, 0, 0)
    other[0, 1] = (100, 0, 40)
    shown = difference_image(other, RED)
    assert shown[5, 5].tolist() == [128, 128, 128]
    assert shown[0, 0].tolist() == [136, 128, 128]
    assert shown[0, 1].tolist() == [0, 128, 255]
    assert difference_image(other, RED, gain=2)[0, 0, 0] == 130


def colors_in(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def test_pictures_and_answers_are_there(tmp_path):
    clean = SheetPanel("clean", RED, ("a cat", "two"), (True, True))
    attacked = SheetPanel("attacked", BLUE, ("a dog", "two"), (False, False), note="8/255")
    draw_sheet(
        [SheetRow(("what is it?", "how many?"), (clean, attacked))], tmp_path / "a" / "s.png"
    )
    colors = colors_in(tmp_path / "a" / "s.png")
    assert {(200, 0, 0), (0, 0, 200)} <= colors
    assert {(0x1A, 0x7F, 0x37), (0xCF, 0x22, 0x2E)} <= colors
    right_alone = SheetRow(("what is it?", "how many?"), (clean, clean))
    draw_sheet([right_alone], tmp_path / "right.png")
    assert (0xCF, 0x22, 0x2E) not in colors_in(tmp_path / "right.png")


def test_every_row_adds_height(tmp_path):
    one = SheetRow(("what?",), (SheetPanel("clean", RED, ("cat",), (True,)),))
    heights = []
    for number in (1, 3):
        draw_sheet([one] * number, tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as image:
            heights.append(image.height)
    assert heights[1] > 2.5 * heights[0]


def test_what_a_model_says_is_no_formula(tmp_path):
    """A lone dollar, a broken formula, control characters and a flood of words are all drawn."""
    answers = ("$", r"$\frac{$", "a\x16b\nc", "word " * 40)
    panel = SheetPanel("clean", RED, answers, (True,) * 4)
    draw_sheet([SheetRow(("$ what?",) * 4, (panel,))], tmp_path / "sheet.png")
    assert (0x1A, 0x7F, 0x37) in colors_in(tmp_path / "sheet.png")


def test_misfits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 answers, 1 marks"):
        SheetPanel("clean", RED, ("a", "b"), (True,))
    with pytest.raises(ValueError, match="same number of panels"):
        draw_sheet([], tmp_path / "sheet.png")
    panel = SheetPanel("clean", RED)
    with pytest.raises(ValueError, match="same number of panels"):
        draw_sheet([SheetRow((), (panel,)), SheetRow((), (panel, panel))], tmp_path / "sheet.png")
