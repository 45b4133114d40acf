"""docs/performance.md says what the results say, and shows a picture of each that has one."""

import re

import pytest
from PIL import Image

from benchmarks.page import PAGE, page, read_results, write_page
from benchmarks.plots import PICTURES, draw_pictures
from benchmarks.rates import SHARES
from benchmarks.report import Figure, percentiles_ms


def test_the_page_is_what_the_results_give():
    assert PAGE.read_text(encoding="utf-8") == page(read_results()), "make docs writes it anew"


def test_every_picture_is_shown_and_is_there():
    shown = set(re.findall(r"\]\(performance/([^)]+)\)", PAGE.read_text(encoding="utf-8")))
    folder = PAGE.with_suffix("")
    assert shown == {path.name for path in folder.glob("*.png")}
    assert shown == {f"{stem}.png" for stem in read_results() if stem.split("-")[0] in PICTURES}


def rows_of_rates():
    """As `measure_rates` gives them."""
    for number, share in enumerate(SHARES, start=1):
        config = {"share": share, "requests_per_second": 10 * share}
        seconds = percentiles_ms([0.1 * number, 0.2 * number])
        yield Figure(f"goodput_at_{share:.0%}", config, 9.0, "images/s", baseline=10, **seconds)
        yield Figure(f"refused_at_{share:.0%}", config, 1, "responses", baseline=10)
        for stage in ("decode", "queue", "purify", "encode"):
            yield Figure(f"{stage}_at_{share:.0%}", config, 7.0 * number, "ms", **seconds)
        for who in ("service", "sender"):
            yield Figure(f"{who}_processors_at_{share:.0%}", config, 0.25, "cores")


@pytest.fixture
def results():
    meta = {"device": "a GPU", "commit": "a" * 40 + "-dirty", "date": "2026-11-26T12:00:00"}
    meta |= {"versions": {"python": "3.11", "torch": "2.13"}, "load": 0.25, "warnings": ["beware"]}
    rates = [dict(zip(Figure.__slots__, _values(row), strict=True)) for row in rows_of_rates()]
    other = Figure("other_thing", {"baseline": "stock"}, 1234.5, "images/s", baseline=1000.0)
    rows = [dict(zip(Figure.__slots__, _values(other), strict=True))]
    return {
        "rates-cpu": {"meta": meta, "rows": rates},
        "fresh-nvidia": {"meta": meta, "rows": rows},
    }


def _values(row):
    return [getattr(row, name) for name in Figure.__slots__]


def test_rates_have_a_line_each_and_what_is_new_is_shown_as_it_is(results):
    text = page(results)
    assert text.count("| 10% | ") == len(SHARES)
    assert "## Fresh, nvidia" in text
    assert "| other thing | 1,234 images/s | 1,000 (stock) | 1.23 |" in text
    assert "aaaaaaaa-dirty" in text
    assert "beware" in text


def test_pictures_are_small(results, tmp_path):
    draw_pictures(results, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "rates-cpu.png"
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert picture.size == (1200, 525)


def test_growth_is_drawn_for_whatever_grows(tmp_path):
    rows = [
        {"name": f"{grown}_{number}_{what}", "value": float(number)}
        for grown in ("size", "batch", "clients")
        for number in (1, 2, 4)
        for what in ("images_per_second", "per_processor_second")
    ]
    draw_pictures({"growth-cpu": {"rows": rows}}, tmp_path)
    assert (tmp_path / "growth-cpu.png").read_bytes().startswith(b"\x89PNG")


def test_writing_it_again_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.page.PAGE", tmp_path / "performance.md")
    monkeypatch.setattr("benchmarks.page.PICTURES_FOLDER", tmp_path / "performance")
    assert write_page() == PAGE.read_text(encoding="utf-8")
