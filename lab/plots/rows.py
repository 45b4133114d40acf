"""Reads the rows of a report that plots are drawn from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from codefend.lab.errors import LabError

__all__ = ["PlotRow", "read_rows", "select"]


@dataclass(frozen=True, slots=True)
class PlotRow:
    """What plots need of a report's row; epsilon is a fraction of the range."""

    tier: str
    attack: str
    targeted: bool
    epsilon: float
    defence: str
    victim: str
    task: str | None
    metric: str
    value: float
    low: float
    high: float
    n: int

    @property
    def levels(self) -> int:
        """Epsilon in levels of 255."""
        return round(self.epsilon * 255)


def read_rows(report: Path) -> list[PlotRow]:
    """The rows of a ``report.json``; keys that plots do not need are passed over.

    Raises:
        LabError: There is no such file, or it is no report.
    """
    names = [field.name for field in fields(PlotRow)]
    try:
        document = json.loads(report.read_text(encoding="utf-8"))
        return [PlotRow(**{name: row[name] for name in names}) for row in document["rows"]]
    except OSError as error:
        raise LabError(f"{report} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"{report} is not a report of the evaluation: {error!r}") from error


def select(rows: Iterable[PlotRow], **wanted: object) -> list[PlotRow]:
    """The rows whose attributes equal ``wanted``, in order."""
    return [
        row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())
    ]
