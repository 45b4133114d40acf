"""Figures of what defences do to images that nobody attacked, as rows of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from codefend.lab.attacks.interface import Tier
from codefend.lab.baselines.defence import NO_DEFENCE, Defence
from codefend.lab.evaluate.observe import Observation, Observer
from codefend.lab.evaluate.specimens import Specimen
from codefend.lab.experiments.report import Row
from codefend.lab.experiments.statistics import Estimate, bootstrap
from codefend.lab.progress import progress

__all__ = ["unattacked_rows"]

Floats = NDArray[np.float64]


def unattacked_rows(
    specimens: Sequence[Specimen],
    defences: Sequence[Defence],
    observe: Observer,
    *,
    seeds: int = 3,
) -> list[Row]:
    """PSNR, SSIM, perceptual distance and character error rate of every defence.

    Text is also read undefended (``none``); ``character_error_rate_rise`` is what a defence adds to
    that, page by page. A metric's suffix names a part: ``character_error_rate:page:12px``. The
    intervals are bootstraps that draw whole photos, scenes, and pages with all their sizes.

    Args:
        specimens: the images.
        defences: without ``none``, which is always observed.
        observe: makes observations and remembers them.
        seeds: how many seeds of a random defence's noise; the others are the same for every seed.
    """
    conditions = [NO_DEFENCE, *defences]
    num_seeds = [seeds if defence.is_random else 1 for defence in conditions]
    total = len(specimens) * sum(num_seeds)
    rows: list[Row] = []
    with progress(total=total, desc="fidelity", unit="image") as bar:
        undefended: list[Observation] = []
        for defence, num in zip(conditions, num_seeds, strict=True):
            seen: list[list[Observation]] = [[] for _ in range(num)]
            for seed, specimen in product(range(num), specimens):
                seen[seed].append(observe(specimen, defence, seed=seed))
                bar.update()
            undefended = undefended or seen[0]
            rows += _rows(defence.name, specimens, seen, undefended, seeds)
    return rows


def _rows(
    name: str,
    specimens: Sequence[Specimen],
    seen: Sequence[Sequence[Observation]],
    undefended: Sequence[Observation],
    seeds: int,
) -> Iterator[Row]:
    """Rows of one defence; ``seen`` has one sequence a seed, or one alone if all are the same."""
    for task in dict.fromkeys(specimen.task for specimen in specimens):
        for group in _groups(specimens, task):
            chosen = [
                index
                for index, specimen in enumerate(specimens)
                if specimen.task == task and group in ("", *specimen.groups)
            ]
            members = [specimens[index] for index in chosen]
            theirs = [[of_seed[index] for index in chosen] for of_seed in seen]
            before = [undefended[index] for index in chosen]
            for metric, figure in _figures(name, members, theirs, before):
                label = f"{metric}:{group}" if group else metric
                yield _row(name, task, label, figure, seeds)


def _groups(specimens: Sequence[Specimen], task: str) -> list[str]:
    """The whole, then kinds, text sizes, and kinds in a size."""
    named = dict.fromkeys(group for s in specimens if s.task == task for group in s.groups)
    return ["", *sorted(named, key=lambda group: (group.count(":"), group.endswith("px")))]


def _figures(
    name: str,
    members: Sequence[Specimen],
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


def _quotient_of(members: Sequence[Specimen], above: Floats, below: Floats) -> Estimate:
    """Sum over sum, with an interval clustered by page, photo or scene."""
    _, cluster = np.unique([specimen.cluster for specimen in members], return_inverse=True)
    sums = [np.bincount(cluster, weights) for weights in (above, below)]
    totals = np.stack(sums, axis=1).astype(np.float64)
    return bootstrap(totals, lambda drawn: drawn[..., 0] / drawn[..., 1], n=len(members))


def _row(name: str, task: str, metric: str, figure: Estimate, seeds: int) -> Row:
    return Row(
        tier=Tier.CLEAN,
        attack="none",
        family="none",
        held_out=False,
        targeted=False,
        epsilon=0.0,
        steps=0,
        eot=0,
        gradient="none",
        restarts=0,
        defence=name,
        victim="none",
        task=task,
        metric=metric,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        n=figure.n,
        seeds=seeds,
    )
