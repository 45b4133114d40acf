"""Figures of what defences do to images that nobody attacked, and their report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.experiments.report import Row, Threat, rows_under, write_report
from codefend.lab.experiments.statistics import Estimate, Floats, Measure, ratio
from codefend.lab.experiments.table import Table
from codefend.lab.fidelity.probe import FidelityProbe, Observation
from codefend.lab.fidelity.samples import Sample
from codefend.lab.progress import progress

__all__ = ["unattacked_rows", "write_fidelity"]

_TITLES = {"photo": "Photos", "scene": "Scenes", "text": "Text"}


def unattacked_rows(
    samples: Sequence[Sample],
    defences: Sequence[Defence],
    observe: FidelityProbe,
    *,
    seeds: int = 3,
) -> list[Row]:
    """PSNR, SSIM, perceptual distance and character error rate of every defence.

    Text is also read undefended (``none``); ``character_error_rate_rise`` is what a defence adds to
    that, page by page. A metric's suffix names a part: ``character_error_rate:page:12px``. The
    intervals are bootstraps that draw whole photos, scenes, and pages with all their sizes.

    Args:
        samples: the images.
        defences: without ``none``, which is always observed.
        observe: makes observations and remembers them.
        seeds: how many seeds of a random defence's noise; the others are the same for every seed.
    """
    conditions = [NO_DEFENCE, *defences]
    num_seeds = [seeds if defence.is_random else 1 for defence in conditions]
    total = len(samples) * sum(num_seeds)
    rows: list[Row] = []
    with progress(total=total, desc="fidelity", unit="image") as bar:
        undefended: list[Observation] = []
        for defence, num in zip(conditions, num_seeds, strict=True):
            seen: list[list[Observation]] = [[] for _ in range(num)]
            for seed, sample in product(range(num), samples):
                seen[seed].append(observe(sample, defence, seed=seed))
                bar.update()
            undefended = undefended or seen[0]
            rows += rows_under(
                Threat(tier=Tier.CLEAN, attack="none"),
                _measures(defence.name, samples, seen, undefended),
                defence=defence.name,
                victim="none",
                seeds=seeds,
            )
    return rows


def _measures(
    name: str,
    samples: Sequence[Sample],
    seen: Sequence[Sequence[Observation]],
    undefended: Sequence[Observation],
) -> Iterator[Measure]:
    """Figures of one defence; `seen` has one sequence a seed, or one alone if all are equal."""
    for task in dict.fromkeys(sample.task for sample in samples):
        for group in _groups(samples, task):
            chosen = [
                index
                for index, sample in enumerate(samples)
                if sample.task == task and group in ("", *sample.groups)
            ]
            members = [samples[index] for index in chosen]
            theirs = [[of_seed[index] for index in chosen] for of_seed in seen]
            before = [undefended[index] for index in chosen]
            for metric, figure in _figures(name, members, theirs, before):
                label = f"{metric}:{group}" if group else metric
                yield (task, label, figure)


def _groups(samples: Sequence[Sample], task: str) -> list[str]:
    """The whole, then kinds, text sizes, and kinds in a size."""
    named = dict.fromkeys(group for s in samples if s.task == task for group in s.groups)
    return ["", *sorted(named, key=lambda group: (group.count(":"), group.endswith("px")))]


def _figures(
    name: str,
    members: Sequence[Sample],
    seen: Sequence[Sequence[Observation]],
    undefended: Sequence[Observation],
) -> Iterator[tuple[str, Estimate]]:
    ones = np.ones(len(members))
    for metric in ("psnr_db", "ssim", "perceptual"):
        values = _mean_over_seeds(seen, metric)
        if values is not None:
            yield metric, _quotient_of(members, values, ones)
    errors = _mean_over_seeds(seen, "character_errors")
    errors_before = _mean_over_seeds([undefended], "character_errors")
    if errors is not None and errors_before is not None:
        lengths = np.array([s.document.num_characters if s.document else 0 for s in members])
        yield "character_error_rate", _quotient_of(members, errors, lengths)
        if name != NO_DEFENCE.name:
            rise = errors - errors_before
            yield "character_error_rate_rise", _quotient_of(members, rise, lengths)


def _mean_over_seeds(seen: Sequence[Sequence[Observation]], metric: str) -> Floats | None:
    """(N,), or None where any image lacks the metric."""
    values = [[getattr(one, metric) for one in of_seed] for of_seed in seen]
    if any(value is None for of_seed in values for value in of_seed):
        return None
    table: Floats = np.asarray(values, dtype=np.float64)
    return np.asarray(table.mean(axis=0), dtype=np.float64)


def _quotient_of(members: Sequence[Sample], above: Floats, below: Floats) -> Estimate:
    """Sum over sum, with an interval clustered by page, photo or scene."""
    return ratio(above, below, clusters=[sample.cluster for sample in members])


def write_fidelity(folder: Path, meta: dict[str, Any], rows: Sequence[Row]) -> str:
    """Writes both files, and returns the Markdown.

    Args:
        folder: where to.
        meta: the evaluation's, with ``defences``, name to setting, and ``reader``.
        rows: every figure.
    """
    return write_report(folder, meta, rows, _sections(meta, rows), stem="fidelity")


def _sections(meta: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    parts = ["# What defences do to images that nobody attacked", _likeness(rows)]
    if any(row.metric.startswith("character_error_rate") for row in rows):
        parts += ["## Reading", _reading_notes(meta), _reading(rows)]
    settings = [f"- {name}: {text}" for name, text in meta["defences"].items()]
    return [*parts, "\n".join(["Settings:", "", *settings]), _NOTES]


_NOTES = (
    "Images keep their size; of larger ones the middle 512 × 512 pixels are taken. Brackets are "
    "95 % intervals by a bootstrap that draws whole photos, scenes, or pages with all their text "
    "sizes; random defences are means over the seeds of their noise, and their images count once."
)


def _reading_notes(meta: dict[str, Any]) -> str:
    return (
        f"Read by {meta['reader']}. The first line is the character error rate without a defence "
        "(edits over characters of the truth); the others are what a defence adds to it, in "
        "percentage points."
    )


def _likeness(rows: Sequence[Row]) -> str:
    """PSNR, SSIM and perceptual distance: one line a defence, one column a task and metric."""
    columns = [
        (task, metric)
        for task in _TITLES
        for metric in ("psnr_db", "ssim", "perceptual")
        if any((row.task, row.metric) == (task, metric) for row in rows)
    ]
    names = {"psnr_db": "PSNR, dB", "ssim": "SSIM", "perceptual": "perceptual distance"}
    titles = [f"{_TITLES[task]}: {names[metric]}" for task, metric in columns]
    defences = dict.fromkeys(row.defence for row in rows if row.metric == "psnr_db")
    lines = [
        [name, *(_cell(rows, name, task, metric) for task, metric in columns)] for name in defences
    ]
    return Table(["defence", *titles], lines).markdown()


def _reading(rows: Sequence[Row]) -> str:
    """Character error rates: one column a kind of document and text size."""
    prefix = "character_error_rate"
    columns = [
        row.metric.removeprefix(prefix)
        for row in rows
        if row.defence == "none" and row.metric.startswith(prefix)
    ]
    defences = [name for name in dict.fromkeys(row.defence for row in rows) if name != "none"]
    titles = ["all", *(column[1:].replace(":", " ") for column in columns[1:])]
    lines = [["none, rate", *(_cell(rows, "none", "text", f"{prefix}{c}") for c in columns)]]
    lines += [
        [name, *(_cell(rows, name, "text", f"{prefix}_rise{c}") for c in columns)]
        for name in defences
    ]
    # Parts below each other: there are more of them than a page is wide.
    return Table(["", *titles], lines).transposed().markdown()


def _cell(rows: Sequence[Row], defence: str, task: str, metric: str) -> str:
    wanted = (defence, task, metric)
    row = next((r for r in rows if (r.defence, r.task, r.metric) == wanted), None)
    if row is None:
        return ""
    if metric.startswith("character_error_rate_rise"):
        return f"{_points(row.value)} [{_points(row.low)}, {_points(row.high)}]"
    if metric.startswith("character_error_rate"):
        return f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]"
    digits = 1 if metric == "psnr_db" else 3
    return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"


def _points(share: float) -> str:
    """Percentage points with their sign; what rounds to nothing is +0.0, never -0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"
