"""Reports: one row a figure, all that it holds for, and where it comes from.

`report.json` is for programs, `report.md` for people; both are written from the same rows.
"""

from __future__ import annotations

import datetime
import json
import lzma
import os
import platform
import re
import subprocess
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch

from codefend.lab.attacks.registry import AttackConfig
from codefend.lab.errors import LabError
from codefend.lab.experiments.settings import RunSettings
from codefend.lab.experiments.statistics import Measure
from codefend.lab.experiments.store import write_atomically
from codefend.models.manifest import WEIGHTS_DIRECTORY

__all__ = [
    "Row",
    "Threat",
    "cell",
    "commit",
    "fit_page",
    "provenance",
    "radius",
    "read_report",
    "rows_under",
    "write_report",
]

WIDTH = 160
TREE = Path(__file__).parents[2]
"""The checkout, if this is one."""
_MARKER = re.compile(r"((?:> )?(?:- )?).*")
_SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z`*])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """Who attacked how; epsilon is a fraction of the range."""

    tier: str
    attack: str
    family: str = "none"
    held_out: bool = False
    targeted: bool = False
    epsilon: float = 0.0
    steps: int = 0
    eot: int = 0
    gradient: str = "none"
    restarts: int = 0

    @classmethod
    def of(cls, attack: AttackConfig, *, tier: str, label: str = "") -> Threat:
        """An attack on the undefended model, under its own name in the rows or another."""
        return cls(
            tier=tier,
            attack=label or attack.label,
            family=attack.family,
            held_out=attack.is_held_out,
            targeted=attack.targeted,
            epsilon=attack.epsilon,
            steps=attack.steps,
            eot=1 if attack.steps else 0,
            gradient="exact" if attack.steps else "none",
            restarts=attack.restarts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Threat):
    """One figure and everything that it holds for."""

    defence: str
    victim: str
    task: str | None
    metric: str
    value: float
    low: float
    high: float
    n: int
    seeds: int


def rows_under(
    threat: Threat, measures: Iterable[Measure], *, defence: str, victim: str, seeds: int
) -> list[Row]:
    """Figures under one threat as rows.

    Args:
        threat: who attacked how; tier `clean` where nobody did.
        measures: the figures.
        defence: name of what defended.
        victim: name of the model that was asked.
        seeds: over how many seeds of the defence's noise they are means.
    """
    return [
        Row(
            **asdict(threat),
            defence=defence,
            victim=victim,
            task=task,
            metric=metric,
            **asdict(figure),
            seeds=seeds,
        )
        for task, metric, figure in measures
    ]


def cell(row: Row | None) -> str:
    """A figure with its interval, as tables show it; empty where there is none."""
    if row is None:
        return ""
    if row.metric.startswith(("cider", "ssim")):
        return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
    if row.metric == "psnr_db":
        return f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]"
    return f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]"


def radius(epsilon: float) -> str:
    """A radius in levels, as tables show it."""
    return f"{round(epsilon * 255)}/255"


def write_report(
    folder: Path,
    meta: Mapping[str, Any],
    rows: Sequence[Row],
    sections: Iterable[str],
    *,
    checks: Sequence[Mapping[str, Any]] = (),
    stem: str = "report",
) -> str:
    """Writes `STEM.json` and `STEM.md`, and returns the Markdown.

    Args:
        folder: where to.
        meta: of `provenance`, and whatever else a reader must know.
        rows: every figure.
        sections: of the Markdown, from top to bottom; empty ones are left out.
        checks: name, outcome and reason of each check of the rows.
        stem: of the files' names.
    """
    document: dict[str, Any] = {"meta": meta, "rows": [asdict(row) for row in rows]}
    if checks:
        document["checks"] = list(checks)
    write_atomically(folder / f"{stem}.json", (json.dumps(document, indent=1) + "\n").encode())
    markdown = fit_page("\n\n".join(section for section in sections if section)) + "\n"
    write_atomically(folder / f"{stem}.md", markdown.encode())
    return markdown


RowT = TypeVar("RowT", bound=Row)


def read_report(report: Path, row_type: type[RowT]) -> tuple[dict[str, Any], list[RowT]]:
    """The `meta` and the rows of a `report.json`, packed by xz or not.

    Args:
        report: the file.
        row_type: of the rows; keys that it does not know are passed over.

    Raises:
        LabError: There is no such file, or it is no report.
    """
    known = {field.name for field in fields(row_type)}
    try:
        content = report.read_bytes()
        is_packed = report.suffix == ".xz"
        document = json.loads(lzma.decompress(content) if is_packed else content)
        own = [{name: row[name] for name in known & row.keys()} for row in document["rows"]]
        return document.get("meta", {}), [row_type(**{"seeds": 1, **row}) for row in own]
    except OSError as error:
        raise LabError(f"{report} cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, lzma.LZMAError) as error:
        raise LabError(f"{report} is not a report of the evaluation: {error!r}") from error


def fit_page(markdown: str) -> str:
    """Breaks whatever is wider than `WIDTH` columns; fitted once, it stays as it is.

    Args:
        markdown: Prose, lists, quotations and tables; no blocks of code.

    Returns:
        Prose with a line for each sentence, and several tables in place of one that is too wide,
        each with the leading columns that tell its rows apart.
    """
    blocks = groupby(markdown.splitlines(), key=lambda line: line.startswith("|"))
    return "\n".join(
        line
        for is_table, lines in blocks
        for line in (_fit_table(list(lines)) if is_table else _fit_prose(lines))
    )


def _fit_prose(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith(("#", "!")) or (len(line) <= WIDTH and not _SENTENCE_END.search(line)):
            yield line
            continue
        marker = _MARKER.sub(r"\1", line)
        rest = marker.replace("- ", "  ")
        for number, sentence in enumerate(_SENTENCE_END.split(line.removeprefix(marker))):
            yield from textwrap.wrap(
                sentence,
                WIDTH,
                initial_indent=rest if number else marker,
                subsequent_indent=rest,
                break_long_words=False,
                break_on_hyphens=False,
            )


def _fit_table(lines: list[str]) -> Iterator[str]:
    if max(map(len, lines)) <= WIDTH:
        yield from lines
        return
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    widths = [max(map(len, column)) + 3 for column in zip(heads, *rows, strict=True)]
    keys = _num_keys(rows)
    start = keys
    while start < len(heads):
        stop, room = start + 1, WIDTH - 1 - sum(widths[:keys]) - widths[start]
        while stop < len(heads) and widths[stop] <= room:
            room -= widths[stop]
            stop += 1
        if start > keys:
            yield ""
        part = [*range(keys), *range(start, stop)]
        yield _line([heads[i] for i in part])
        yield "|---" * len(part) + "|"
        yield from (_line([row[i] for i in part]) for row in rows)
        start = stop


def _num_keys(rows: list[list[str]]) -> int:
    """How many of the leading columns tell all rows apart; one where even all of them do not."""
    for count in range(1, len(rows[0]) if rows else 1):
        if len({tuple(row[:count]) for row in rows}) == len(rows):
            return count
    return 1


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def provenance(
    *,
    seed: int,
    weights: Mapping[str, str],
    device: str,
    data: str = "",
    settings: RunSettings | None = None,
) -> dict[str, Any]:
    """The report's `meta`.

    Args:
        seed: of the run.
        weights: name to sha256.
        device: torch device that the models ran on.
        data: what was evaluated on; nothing is said of it where empty.
        settings: of the run, as they were resolved.
    """
    return {
        "commit": commit(),
        "device": _device_name(device),
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": dict(weights),
        **({"data": data} if data else {}),
        **({"settings": _portable(settings.model_dump(mode="json"))} if settings else {}),
    }


def _portable(value: Any) -> Any:
    """Settings as another machine can use them: shipped weights by their place in the tree."""
    if isinstance(value, dict):
        return {name: _portable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_portable(part) for part in value]
    if isinstance(value, str):
        return value.replace(str(WEIGHTS_DIRECTORY), "models/weights")
    return value


def commit(*ignored: str) -> str:
    """The checked-out commit, with -dirty where tracked files differ.

    A tree that was copied without its history is told its commit by ``SOURCE_COMMIT``.

    Args:
        ignored: git's pathspecs of files that may differ.

    Returns:
        40 digits, or unknown.
    """
    head = _git("rev-parse", "HEAD") or os.environ.get("SOURCE_COMMIT", "unknown")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *ignored)
    return f"{head}{'-dirty' if changed else ''}"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            ["git", *words],  # noqa: S607 - wherever git is
            cwd=TREE,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
