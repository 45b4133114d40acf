"""Plots show the report's figures, in small files, with one colour for each defence."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codefend.lab.errors import LabError
from codefend.lab.plots.report import (
    draw_epsilon,
    draw_question_types,
    main_attack,
    plot_report,
    read_rows,
    spread,
    worst_rows,
)
from codefend.lab.plots.style import arranged, color_of, name_of
from codefend.lab.plots.tradeoff import Curve, Spot, draw_tradeoff

PUBLISHED = Path(__file__).parents[3] / "docs" / "robustness" / "report.json.xz"


def row(defence, levels, value, *, attack="apgd", tier="t0", metric="accuracy", victim="mllm"):
    return {
        "tier": tier if levels else "clean",
        "attack": attack if levels else "none",
        "targeted": False,
        "epsilon": levels / 255,
        "defence": defence,
        "victim": victim,
        "task": "vqa",
        "metric": metric,
        "value": value,
        "low": value - 0.02,
        "high": value + 0.03,
        "n": 100,
        "more": "is passed over",
    }


ROWS = [
    *(row("codefend", levels, value) for levels, value in ((0, 0.97), (4, 0.9), (8, 0.8))),
    *(row("none", levels, value) for levels, value in ((0, 0.96), (4, 0.4), (8, 0.1))),
    row("codefend", 8, 0.7, attack="worst-of-all"),
    row("none", 8, 0.05, attack="worst-of-all"),
    row("none", 8, 0.95, attack="uniform_noise"),
    *(row("codefend", levels, 0.6, metric="accuracy:what") for levels in (0, 8)),
    row("codefend", 8, 0.5, metric="accuracy:what", attack="worst-of-all"),
    row("none", 0, 0.3, metric="question_only_accuracy"),
    row("none", 0, 0.2, metric="question_only_accuracy:what"),
]


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"meta": {}, "rows": ROWS}))
    return path


def lines_of(figure):
    """Every drawn line and marker as (colour, x, y)."""
    return [
        (
            line.get_color(),
            line.get_markeredgecolor(),
            np.atleast_1d(line.get_xdata()).tolist(),
            np.atleast_1d(line.get_ydata()).tolist(),
        )
        for axes in figure.axes
        for line in axes.lines
    ]


def test_lines_pass_through_the_reports_figures(report):
    figure = draw_epsilon(read_rows(report), victim="mllm", tier="t0")
    drawn = lines_of(figure)
    ours, theirs = color_of("codefend"), color_of("none")
    assert (ours, ours, [0, 4, 8], [0.97, 0.9, 0.8]) in drawn
    assert (theirs, theirs, [0, 4, 8], [0.96, 0.4, 0.1]) in drawn
    diamonds = [(edge, x, y) for _, edge, x, y in drawn if x == [8]]
    assert diamonds == [(ours, [8], [0.7]), (theirs, [8], [0.05])]
    assert not any(0.95 in y for *_, y in drawn), "sanity noise is no attack"
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "CoDefend  80%" in texts
    assert "question alone 30%" in texts


def test_bands_are_the_intervals(report):
    figure = draw_epsilon(read_rows(report), victim="mllm", tier="t0")
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at_eight = band[band[:, 0] == 8][:, 1]
    assert at_eight.min() == pytest.approx(0.78)
    assert at_eight.max() == pytest.approx(0.83)


def test_questions_show_clean_and_the_worst_attack(report):
    figure = draw_question_types(read_rows(report), victim="mllm", tier="t0")
    ours = color_of("codefend")
    points = [(x, y) for _, edge, x, y in lines_of(figure) if edge == ours and len(x) == 1]
    assert points == [([0.6], [0]), ([0.5], [0])]
    assert figure.axes[0].get_title(loc="left") == "what"


def test_no_figure_of_a_tier_that_was_not_run(report):
    rows = read_rows(report)
    assert draw_epsilon(rows, victim="mllm", tier="t2") is None
    assert draw_question_types(rows, victim="other", tier="t0") is None


def test_one_radius_is_no_curve(report):
    alone = [row for row in read_rows(report) if row.levels == 8]
    assert draw_epsilon(alone, victim="mllm", tier="t0") is None


def test_every_victim_and_tier_gets_its_files(report, tmp_path):
    more = [row("none", levels, 0.5, tier="t2") for levels in (0, 8)]
    more += [row("none", levels, 0.5, victim="Other/LLaVA") for levels in (0, 8)]
    report.write_text(json.dumps({"rows": ROWS + more}))
    names = [path.name for path in plot_report(report, tmp_path / "plots")]
    assert names == [
        "accuracy-by-epsilon-t0.png",
        "accuracy-by-question-t0.png",
        "accuracy-by-epsilon-t0-other-llava.png",
        "accuracy-by-epsilon-t2.png",
    ]


@pytest.mark.slow
def test_the_published_report_is_drawn_small(tmp_path):
    written = plot_report(PUBLISHED, tmp_path)
    assert {"accuracy-by-epsilon-t0.png", "accuracy-by-question-t0.png"} <= {
        path.name for path in written
    }
    for path in written:
        assert path.stat().st_size < 80_000
        with Image.open(path) as image:
            assert 800 <= image.width <= 1200
            assert len(image.convert("RGB").getcolors()) > 32


def test_broken_reports_are_said_to_be_so(tmp_path):
    with pytest.raises(LabError, match="cannot be read"):
        read_rows(tmp_path / "missing.json")
    (tmp_path / "report.json").write_text('{"rows": [{"tier": "t0"}]}')
    with pytest.raises(LabError, match="is not a report"):
        read_rows(tmp_path / "report.json")
    (tmp_path / "report.json.xz").write_bytes(b"no xz")
    with pytest.raises(LabError, match="is not a report"):
        read_rows(tmp_path / "report.json.xz")
    (tmp_path / "report.json").write_text('{"rows": []}')
    with pytest.raises(LabError, match="no accuracy under attack"):
        plot_report(tmp_path / "report.json", tmp_path)


def test_the_attack_at_most_radii_is_the_main_one(report):
    rows = read_rows(report)
    accuracies = [r for r in rows if r.metric == "accuracy"]
    assert main_attack(accuracies) == "apgd"
    assert main_attack([r for r in accuracies if r.levels != 4]) == "worst-of-all"
    assert main_attack([r for r in accuracies if r.attack == "none"]) is None
    noise = [replace(accuracies[0], attack="uniform_noise", epsilon=r / 255) for r in (2, 4, 8)]
    assert main_attack([*accuracies, *noise]) == "apgd"


def test_unattacked_images_of_a_tier_are_no_attack(report):
    unattacked = {**row("codefend", 0, 0.95), "tier": "t4", "attack": "none-full"}
    rows = [unattacked, row("codefend", 8, 0.9, attack="square-full", tier="t4")]
    report.write_text(json.dumps({"meta": {}, "rows": rows}))
    assert main_attack(read_rows(report)) == "square-full"


def test_of_rows_at_one_radius_the_worst_counts(report):
    rows = [r for r in read_rows(report) if r.metric == "accuracy" and r.defence == "codefend"]
    assert [(r.levels, r.value) for r in worst_rows(rows)] == [(0, 0.97), (4, 0.9), (8, 0.7)]


def test_defences_keep_their_looks():
    names = ["none", "zebra", "blur", "codefend", "diffpure", "codefend"]
    assert arranged(names) == ["codefend", "diffpure", "blur", "zebra", "none"]
    assert color_of("zebra") == color_of("zebra")
    known = ["codefend", "purifier", "prompt", "diffpure", "jpeg", "median", "blur", "none"]
    assert len({color_of(name) for name in [*known, "bit_depth", "zebra"]}) == 10
    assert name_of("my_filter") == "my filter"


@given(st.lists(st.floats(0, 1), max_size=9), st.floats(0.01, 0.1))
def test_labels_are_apart_and_in_order(heights, gap):
    moved = spread(heights, gap)
    in_order = sorted(moved)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(in_order))
    for one, other in zip(heights, moved, strict=True):
        for two, third in zip(heights, moved, strict=True):
            assert not (one < two and other > third)
    if len(heights) == 1:
        assert moved == pytest.approx(heights)


def test_two_labels_at_one_height_move_half_a_gap_each():
    assert spread([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])


def test_purifiers_with_one_setting_each_are_named_in_the_plot():
    curves = [
        Curve(tier, name, 1, [Spot("0.08", 30 + place, 0.5, 0.4, 0.6)])
        for tier in ("t0", "t2")
        for place, name in enumerate(("whole", "bare"))
    ]
    axes = draw_tradeoff(curves).axes[0]
    assert [text.get_text() for text in axes.texts] == ["whole", "bare"] * 2
    assert axes.get_legend_handles_labels()[1] == ["oblivious", "white box"]
