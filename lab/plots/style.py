"""How every plot looks: colours and names of defences, axes of percentages, small files."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = [
    "FAINT",
    "INK",
    "RIGHT",
    "WRONG",
    "arranged",
    "color_of",
    "entitle",
    "name_of",
    "new_figure",
    "save_small",
    "show_percent",
]

INK, FAINT = "#24292f", "#6e7781"
RIGHT, WRONG = "#1a7f37", "#cf222e"  # of answers
_NUM_COLORS = 128

# Okabe & Ito 2008, told apart by colour-blind readers; ours is the strongest.
_LOOKS: Mapping[str, tuple[str, str]] = {
    "codefend": ("CoDefend", "#0060a8"),
    "purifier": ("purifier alone", "#56b4e9"),
    "prompt": ("prompt alone", "#a8a030"),
    "diffpure": ("DiffPure", "#d55e00"),
    "autoencoder": ("autoencoder alone", "#8c6d31"),
    "jpeg": ("JPEG", "#009e73"),
    "median": ("median", "#7a4fa3"),
    "blur": ("blur", "#c98a00"),
    "bit_depth": ("bit depth", "#cc6699"),
    "none": ("no defence", "#57606a"),
}
_SPARE = ("#8c564b", "#2f7f8f", "#9a3b3b", "#5b7f2b")


def color_of(defence: str) -> str:
    """The defence's colour; an unknown one always gets the same spare one."""
    spare = _SPARE[zlib.crc32(defence.encode()) % len(_SPARE)]
    return _LOOKS.get(defence, ("", spare))[1]


def name_of(defence: str) -> str:
    """What people call it."""
    return _LOOKS.get(defence, (defence.replace("_", " "),))[0]


def arranged(defences: Iterable[str]) -> list[str]:
    """Each once: ours, DiffPure, filters, unknown ones, no defence."""
    places = {name: place for place, name in enumerate(_LOOKS)}
    unknown = len(places) - 1.5  # before the last of the known, no defence
    return sorted(set(defences), key=lambda name: (places.get(name, unknown), name))


def new_figure(width_in: float, height_in: float, *, dpi: int = 125) -> Any:
    """An empty figure that needs no display and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=dpi, facecolor="white")


def entitle(
    figure: Any, title: str, note: str = "", *, left: float = 0.03, tops: tuple[float, ...]
) -> None:
    """A bold title, and a fainter line below it.

    Args:
        figure: of matplotlib.
        title: what is shown.
        note: how to read it; may be empty.
        left: edge of both, a fraction of the width.
        tops: baselines of title and note, fractions of the height.
    """
    figure.text(left, tops[0], title, fontsize=13.5, fontweight="bold", color=INK)
    if note:
        figure.text(left, tops[1], note, fontsize=10.5, color=FAINT)


def show_percent(axes: Any, label: str) -> None:
    """From 0 to 100 %, with faint lines across, and no frame but the line below.

    Args:
        axes: of matplotlib.
        label: what runs along the bottom.
    """
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"], fontsize=11)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel(label, fontsize=11, color=INK)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)


def save_small(figure: Any, path: Path) -> None:
    """Writes the figure with 128 colours: a line drawing loses nothing and a third is left.

    Args:
        figure: of matplotlib.
        path: PNG to write; its folder is made.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as drawn:
        indexed = drawn.convert("RGB").quantize(_NUM_COLORS, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    indexed.save(path, format="PNG", optimize=True)
