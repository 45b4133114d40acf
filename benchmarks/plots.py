"""The pictures of docs/performance.md."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codefend.lab.plots.style import FAINT, INK, color_of, entitle, new_figure, save_small

__all__ = ["PICTURES", "ResultPlot", "draw_pictures"]

_STAGES = {"decode": "jpeg", "queue": "none", "purify": "codefend", "encode": "blur"}
"""The stages, and the defences whose colours they have."""


_GROWN = {"size": "side, px", "batch": "images of a batch", "clients": "clients at once"}


@dataclass(frozen=True, slots=True)
class ResultPlot:
    """A picture of one benchmark's rows."""

    caption: str
    draw: Callable[[Sequence[Mapping[str, Any]]], Any]


def draw_pictures(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Writes a PNG for each results file that has a picture.

    Args:
        results: What the JSON files hold, by name and device.
        folder: Where to.
    """
    for stem, document in results.items():
        name = stem.partition("-")[0]
        if name in PICTURES:
            save_small(PICTURES[name].draw(document["rows"]), folder / f"{stem}.png")


def draw_rates(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Latency at each rate, whole and by stage."""
    figure = new_figure(9.6, 4.2)
    whole, stages = figure.subplots(1, 2)
    goodput = [row for row in rows if row["name"].startswith("goodput_at_")]
    rates = [row["config"]["requests_per_second"] for row in goodput]
    for rank, dash in ((50, "solid"), (95, (0, (5, 2))), (99, (0, (1, 1.5)))):
        whole.plot(
            rates,
            [row[f"p{rank}_ms"] for row in goodput],
            color=color_of("codefend"),
            linestyle=dash,
            marker="o",
            markersize=4,
            label=f"p{rank}",
        )
    whole.set_yscale("log")
    whole.set_title("answered requests, ms", fontsize=11, color=INK, loc="left")
    bottoms = [0.0] * len(goodput)
    places = range(len(goodput))
    for stage, look in _STAGES.items():
        means = [row["value"] for row in rows if row["name"].startswith(f"{stage}_at_")]
        stages.bar(places, means, bottom=bottoms, color=color_of(look), width=0.7, label=stage)
        bottoms = [bottom + mean for bottom, mean in zip(bottoms, means, strict=True)]
    stages.set_xticks(places, [f"{rate:.3g}" for rate in rates])
    stages.set_title("mean of each stage, ms", fontsize=11, color=INK, loc="left")
    for axes in (whole, stages):
        axes.set_xlabel("requests sent a second", fontsize=11, color=INK)
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, labelcolor=FAINT)
    entitle(figure, "Latency at rising rates, up to saturation", tops=(0.93,))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.8, wspace=0.16)
    return figure


def draw_growth(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Images a second of wall time, and megapixels a second of processor time, by what grows."""
    figure = new_figure(9.6, 4.2)
    for axes, grown in zip(figure.subplots(1, len(_GROWN)), _GROWN, strict=True):
        own = [row for row in rows if row["name"].startswith(f"{grown}_")]
        images = [row for row in own if row["name"].endswith("_images_per_second")]
        work = [row for row in own if row["name"].endswith("_per_processor_second")]
        places = range(len(images))
        axes.plot(places, [row["value"] for row in images], color=color_of("codefend"), marker="o")
        beside = axes.twinx()
        beside.plot(
            places,
            [row["value"] for row in work],
            color=color_of("diffpure"),
            marker="s",
            alpha=0.7,
        )
        beside.set_ylim(0, 1.1 * max(row["value"] for row in work))
        if grown == "size":  # the only one that spans orders of magnitude
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.1 * max(row["value"] for row in images))
        labels = [row["name"].split("_")[1].partition("x")[0] for row in images]
        axes.set_xticks(places, labels, fontsize=7)
        axes.set_xlabel(_GROWN[grown], fontsize=11, color=INK)
        for each in (axes, beside):
            each.tick_params(length=0, colors=INK, labelsize=8)
            each.spines[["top"]].set_visible(False)
    note = "blue, left: images a second; orange, right: megapixels a second of a processor"
    entitle(figure, "How speed grows", note, tops=(0.93, 0.87))
    figure.subplots_adjust(left=0.06, right=0.95, bottom=0.15, top=0.8, wspace=0.45)
    return figure


PICTURES: Mapping[str, ResultPlot] = {
    "growth": ResultPlot("Speed by size, batch and clients", draw_growth),
    "rates": ResultPlot("Latency at rising rates, whole and by stage", draw_rates),
}
"""By the name of the benchmark."""
