"""Documents say what they show, the same every time; fonts that are missing are named."""

import itertools
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from codefend.lab.documents.document import Canvas, Fonts
from codefend.lab.documents.kinds import documents, draw_page, draw_receipt, draw_screen, sentences
from codefend.lab.errors import LabError

BUILT_IN = Fonts.built_in()
# matplotlib brings DejaVu along, so no test depends on the system's fonts.
DEJAVU = Path(mpl.get_data_path()) / "fonts" / "ttf"
FACES = Fonts(
    {
        "serif": (DEJAVU / "DejaVuSerif.ttf",),
        "sans": (DEJAVU / "DejaVuSans.ttf",),
        "mono": (DEJAVU / "DejaVuSansMono.ttf",),
    }
)


def test_the_same_seed_draws_the_same_pixels_and_another_others():
    first, again = (documents(BUILT_IN, num=1, text_sizes_px=(12,), seed=3) for _ in range(2))
    other = documents(BUILT_IN, num=1, text_sizes_px=(12,), seed=4)
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.image, same.image)
        assert one.lines == same.lines
        assert one.lines != different.lines


def test_every_kind_in_every_size():
    found = documents(BUILT_IN, num=2, text_sizes_px=(10, 24))
    cells = [(d.kind, d.text_size_px, d.index) for d in found]
    assert cells == list(itertools.product(("page", "screen", "receipt"), (10, 24), (0, 1)))


@pytest.mark.parametrize("draw", [draw_page, draw_screen, draw_receipt])
@pytest.mark.parametrize("size_px", [10, 16, 40])
@pytest.mark.parametrize("fonts", [BUILT_IN, FACES], ids=["built-in", "dejavu"])
def test_text_stands_where_the_truth_says(draw, size_px, fonts):
    """Inside each line's box there is ink, and none of the boxes leaves the picture."""
    for index in range(8):
        document = draw(index, size_px, fonts)
        height, width = document.image.shape[:2]
        for line in document.lines:
            left, top, right, bottom = (round(edge) for edge in line.box)
            assert 0 <= left < right <= width, line
            assert 0 <= top < bottom <= height, line
            window = document.image[top:bottom, left:right].astype(int)
            assert np.ptp(window.sum(axis=2)) > 200, line


@pytest.mark.parametrize("draw", [draw_page, draw_screen, draw_receipt])
def test_no_two_lines_overlap(draw):
    for size_px, index in itertools.product((10, 16, 40), range(16)):
        lines = draw(index, size_px, FACES).lines
        for one, other in itertools.combinations(lines, 2):
            beside = one.box[2] <= other.box[0] or other.box[2] <= one.box[0]
            stacked = one.box[3] <= other.box[1] or other.box[3] <= one.box[1]
            assert beside or stacked, (one, other)


def test_larger_pages_say_the_beginning_of_smaller_ones():
    small, large = (
        " ".join(line.text for line in draw_page(0, size_px, FACES).lines) for size_px in (12, 32)
    )
    assert small.startswith(large)
    assert len(small) > 2 * len(large)


def test_screens_are_light_and_dark():
    light, dark = (draw_screen(index, 16, BUILT_IN).image.mean() for index in (0, 1))
    assert light > 200
    assert dark < 80


def test_receipts_add_up():
    texts = [line.text for line in draw_receipt(0, 16, BUILT_IN).lines]
    prices = [float(text) for text in texts if re.fullmatch(r"\d+\.\d\d", text)]
    assert len(prices) == 7
    assert sum(prices[:-1]) == pytest.approx(prices[-1])


def test_sentences_are_sentences():
    stream = sentences(np.random.default_rng(0))
    found = list(itertools.islice(stream, 200))
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9, ]+\.", text) for text in found)
    assert len(set(found)) > 190


def test_characters_of_the_truth():
    canvas = Canvas.blank(64, 32, (255, 255, 255))
    canvas.write((2, 2), "ab c", BUILT_IN.font("sans", 10, 0), (0, 0, 0))
    canvas.write((2, 16), "", BUILT_IN.font("sans", 10, 0), (0, 0, 0))
    document = canvas.finish(kind="page", text_size_px=10, index=0)
    assert document.num_characters == 4
    assert len(document.lines) == 1


def test_a_missing_face_is_named_with_its_package(tmp_path):
    with pytest.raises(LabError, match=r"DejaVuSans\.ttf.*apt-get install fonts-dejavu-core"):
        Fonts.find(tmp_path)
    with pytest.raises(LabError, match=r"LiberationMono.*apt-get install fonts-liberation"):
        Fonts.find(DEJAVU)


def test_faces_take_turns(tmp_path):
    names = ["DejaVuSerif", "DejaVuSans", "DejaVuSansMono"]
    names += [f"Liberation{style}-Regular" for style in ("Serif", "Sans", "Mono")]
    for name in names:
        source = DEJAVU / (name if name.startswith("DejaVu") else "DejaVuSans")
        (tmp_path / f"{name}.ttf").write_bytes(source.with_suffix(".ttf").read_bytes())
    fonts = Fonts.find(tmp_path)
    assert len(fonts.names) == 6
    paths = [Path(fonts.font("mono", 12, number).path).name for number in range(3)]
    assert paths == ["DejaVuSansMono.ttf", "LiberationMono-Regular.ttf", "DejaVuSansMono.ttf"]
