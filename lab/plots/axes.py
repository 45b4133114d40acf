"""The look that all plots of accuracies share."""

from __future__ import annotations

from typing import Any

from codefend.lab.plots.palette import INK

__all__ = ["show_percent"]


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
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
