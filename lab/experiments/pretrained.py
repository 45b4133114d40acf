"""Experiments on pretrained networks: what attacking a classifier and a reader have in common.

Purifiers and defences are named in words, attacks go through a defence by the gradients that it
has, and tables have a line for each defence.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import Field, PositiveInt, StringConstraints
from torch import Generator, Tensor

from codefend.lab.attacks.adaptive import ThroughDefence
from codefend.lab.attacks.gradient import PGD, loss_and_grad, where_image
from codefend.lab.attacks.interface import Objective
from codefend.lab.baselines.defence import Defence
from codefend.lab.baselines.named import Chooser, defence_named
from codefend.lab.baselines.purifiers import load_purifier
from codefend.lab.encoders.releases import ENCODERS_FOLDER
from codefend.lab.experiments.report import Row, cell
from codefend.lab.experiments.settings import Experiment
from codefend.lab.experiments.table import Table, pivot
from codefend.models.manifest import WEIGHTS_DIRECTORY
from codefend.models.purifier.purifier import Purifier

__all__ = [
    "Networks",
    "PretrainedExperiment",
    "StoppingPGD",
    "defence_table",
    "label_of",
    "named",
    "through",
]

Networks = Mapping[str, tuple[Purifier, str]]
"""Purifiers and the hashes of their weights, by name."""

ColumnT = TypeVar("ColumnT", bound=Hashable)

_LOOK_EVERY = 5


class PretrainedExperiment(Experiment):
    """Settings of attacks on a pretrained network."""

    encoders: Path = ENCODERS_FOLDER
    """Folder of `data encoders`."""
    network: Mapping[Annotated[str, StringConstraints(pattern=r"^[^\W\d]\w*$")], Path] = {}
    """Purifiers as NAME=DIRECTORY; `purifier` and `base`, the shipped ones, are there."""
    defences: tuple[str, ...] = (
        *("none", "purifier:0.05", "purifier:0.08", "base:0.05", "base:0.1"),
        *("jpeg:75", "jpeg:50", "jpeg:30", "jpeg:20"),
        *("noise:0.05+bilateral:0.2", "purifier:0.05+jpeg:40", "base:0.05+jpeg:40"),
    )
    """Comma-separated: none, NETWORK:LEVEL, jpeg:30, noise:0.05+jpeg:40, none/jpeg:30@0.8."""
    through: tuple[str, ...] = ()
    """Defences also attacked through themselves (T2), comma-separated."""
    levels: tuple[Annotated[int, Field(ge=1, le=255)], ...] = (4, 8)
    """Radii of the attack, in levels of 255."""
    steps: PositiveInt = 50
    """Attack steps."""
    seeds: PositiveInt = 3
    """Seeds of the defence's noise."""
    seed: int = 0
    """Of what is attacked, and of random starts."""

    def load_networks(self, *, device: str = "cpu") -> Networks:
        """The purifiers that defences may name."""
        shipped = {name: WEIGHTS_DIRECTORY / name for name in ("purifier", "base")}
        given = {**shipped, **self.network}
        return {name: load_purifier(path, device=device) for name, path in given.items()}


def named(words: Iterable[str], networks: Networks, choose: Chooser | None = None) -> list[Defence]:
    """Defences from words; see `defence_named`."""
    return [defence_named(word, networks, choose) for word in words]


def label_of(defence: Defence) -> str:
    """A defence and its setting, without hashes, as rows name it."""
    setting = " ".join(w for w in defence.setting.split() if not w.startswith("weights="))
    return f"{defence.name} {setting}".strip()


def through(
    defence: Defence,
    gradient: str,
    objective: Callable[[int], Objective],
    *,
    num_draws: int,
    noise: Generator,
) -> ThroughDefence:
    """An objective behind a defence, in the mean over draws of its noise, all made at once.

    Args:
        defence: what images go through.
        gradient: which of its ways.
        objective: for a number of copies of the batch, one behind another.
        num_draws: of its noise; one where it draws none.
        noise: source of it.
    """
    draws = num_draws if defence.is_random else 1
    return ThroughDefence(
        objective(draws),
        defence.gradient_paths[gradient],
        noise,
        draws,
        draws,
        penalty=defence.penalties.get(gradient),
    )


@dataclass(frozen=True, kw_only=True)
class StoppingPGD(PGD):
    """PGD that ends where going on could not make any image count for more.

    Attributes:
        is_won: asked of the best images (B, 3, H, W) so far, every fifth step, once any loss is
            above zero; says of each (B,) whether it counts already.
    """

    is_won: Callable[[Tensor], Tensor]

    def run(
        self, clean: Tensor, objective: Objective, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """See ``GradientAttack.run``; an image that is won stays as it was then."""
        ascent = self.begin(clean, generator)
        current = best = ascent.start
        highest = torch.full((len(clean),), -torch.inf, device=clean.device)
        won = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        for step in range(self.steps + 1):
            losses, gradients = loss_and_grad(current, objective)
            is_better = (losses > highest) & ~won
            best = where_image(is_better, current, best)
            highest = torch.where(is_better, losses, highest)
            if step % _LOOK_EVERY == 0 and bool((highest > 0).any()):
                won |= (highest > 0) & self.is_won(best).to(won.device)
                if bool(won.all()):
                    break
            current = ascent.step(current, gradients)
        return best, highest


def defence_table(
    title: str,
    rows: Iterable[Row],
    columns: Mapping[ColumnT, str],
    column_of: Callable[[Row], ColumnT],
    *,
    has_n: bool = False,
) -> Table:
    """A line for each defence, and a figure a column.

    Args:
        title: head of the first column.
        rows: one for each defence and column.
        columns: heads of the others by what `column_of` says.
        column_of: what tells a row's column.
        has_n: whether a last column says how many items the figures rest on; several numbers
            where columns differ.
    """
    lines = []
    for defence, found in pivot(rows, lambda row: row.defence, column_of).items():
        num = " / ".join(dict.fromkeys(str(row.n) for row in found.values()))
        cells = [cell(found.get(column)) for column in columns]
        lines.append([defence, *cells, *([num] if has_n else [])])
    return Table([title, *columns.values(), *(["n"] if has_n else [])], lines)
