"""Tables of a report: rows, which are its JSON, laid out as cells and shown as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Table", "pivot"]

ItemT = TypeVar("ItemT")
LineT = TypeVar("LineT", bound=Hashable)
ColumnT = TypeVar("ColumnT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells under heads.

    Attributes:
        heads: of the columns.
        lines: as many cells each.
    """

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table in Markdown, without a line break at its end."""
        rows = [self.heads, *self.lines]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|---" * len(self.heads) + "|", *lines[1:]])

    def transposed(self) -> Table:
        """Columns as lines: for more columns than a page is wide."""
        heads, *lines = zip(self.heads, *self.lines, strict=True)
        return Table(heads, lines)


def pivot(
    items: Iterable[ItemT],
    line_of: Callable[[ItemT], LineT],
    column_of: Callable[[ItemT], ColumnT],
) -> dict[LineT, Mapping[ColumnT, ItemT]]:
    """Items by line, then by column, in the order in which they come; of equal ones the first."""
    found: dict[LineT, dict[ColumnT, ItemT]] = {}
    for item in items:
        found.setdefault(line_of(item), {}).setdefault(column_of(item), item)
    return dict(found)
