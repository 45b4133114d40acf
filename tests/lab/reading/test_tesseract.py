"""Tesseract reads what documents say; where it is missing, that is said."""

import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from codefend.lab.documents.document import Fonts
from codefend.lab.documents.kinds import draw_page, draw_screen
from codefend.lab.errors import LabError
from codefend.lab.reading import Tesseract, character_errors

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="tesseract-ocr is not installed"
)
DEJAVU = Path(mpl.get_data_path()) / "fonts" / "ttf"
FONTS = Fonts({"serif": (DEJAVU / "DejaVuSerif.ttf",), "sans": (DEJAVU / "DejaVuSans.ttf",)})


@pytest.mark.slow
@needs_tesseract
@pytest.mark.parametrize("size_px", [12, 24])
def test_a_page_is_read(size_px):
    page = draw_page(0, size_px, FONTS)
    words = Tesseract.find()(page.image, text_size_px=size_px)
    assert character_errors(page, words) <= 0.01 * page.num_characters


@pytest.mark.slow
@needs_tesseract
@pytest.mark.parametrize("index", [0, 1], ids=["light", "dark"])
def test_a_screen_is_read(index):
    screen = draw_screen(index, 16, FONTS)
    words = Tesseract.find()(screen.image, text_size_px=16)
    assert character_errors(screen, words) <= 0.02 * screen.num_characters


@pytest.mark.slow
@needs_tesseract
def test_noise_is_not_read():
    page = draw_page(0, 16, FONTS)
    noise = np.random.default_rng(0).integers(0, 256, page.image.shape, dtype=np.uint8)
    words = Tesseract.find()(noise, text_size_px=16)
    assert character_errors(page, words) > 0.9 * page.num_characters


@pytest.mark.slow
@needs_tesseract
def test_its_version_is_known():
    assert Tesseract.find().name.split()[1][0].isdigit()


def test_a_missing_tesseract_is_said_to_be_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LabError, match="apt-get install tesseract-ocr"):
        Tesseract.find()


@pytest.mark.slow
def test_a_failing_tesseract_is_said_to_be_so(tmp_path):
    broken = tmp_path / "tesseract"
    broken.write_text("#!/bin/sh\necho no such language >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(LabError, match="no such language"):
        Tesseract(str(broken), "0")(np.zeros((32, 32, 3), np.uint8), text_size_px=16)


@pytest.mark.slow
def test_places_are_those_of_the_picture_as_given(tmp_path):
    """Enlarged twice for reading, a word's box comes back halved."""
    table = "level\tleft\ttop\twidth\theight\ttext\n5\t20\t40\t60\t32\tHello\n4\t0\t0\t9\t9\t\n"
    fake = tmp_path / "tesseract"
    fake.write_text(f"#!/bin/sh\ncat > /dev/null\ncat <<'END'\n{table}END\n")
    fake.chmod(0o755)
    (word,) = Tesseract(str(fake), "0")(np.zeros((64, 64, 3), np.uint8), text_size_px=16)
    assert word.text == "Hello"
    assert word.box == (10, 20, 40, 36)
