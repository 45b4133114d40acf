"""The format of benchmark results: rows with a value, percentiles and a baseline, as JSON.

Beside them stands under which circumstances they were measured: a figure that another program's
work, or code that no commit holds, had a part in is marked.
"""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from codefend.lab.experiments.report import commit

__all__ = ["RESULTS", "Circumstances", "Figure", "percentiles_ms", "print_rows", "write_results"]

RESULTS = Path(__file__).with_name("results")
_OWN_WORK = (":(top,exclude)benchmarks/results", ":(top,exclude)docs")
IDLE_S = 1.0
"""How long is looked on before a benchmark begins."""
QUIET_PROCESSORS = 0.1
"""Up to here others are no disturbance: what a machine does by itself."""
PACKAGES = ("torch", "diffusers", "numpy", "pillow", "fastapi", "uvicorn", "openvino")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a benchmark ran under.

    Attributes:
        commit: Of the tree; with -dirty where tracked files differ.
        load: The load average when it began.
        busy_processors: How many processors others kept busy in the second before.
        date: When it began.
    """

    commit: str
    load: float
    busy_processors: float
    date: str

    @classmethod
    def look(cls) -> "Circumstances":
        """Looks at the tree, and for a second at the machine, while this process does nothing."""
        before_s = _busy_s()
        time.sleep(IDLE_S)
        busy = max(0.0, _busy_s() - before_s) / IDLE_S
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(commit(*_OWN_WORK), os.getloadavg()[0], round(busy, 2), now)

    @property
    def warnings(self) -> list[str]:
        """What whoever reads the figures must know."""
        found = []
        if self.commit.endswith("-dirty"):
            found.append("files differ from the commit")
        if self.busy_processors > QUIET_PROCESSORS:
            found.append(f"other work kept {self.busy_processors:.1f} processors busy at the start")
        return found


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: What was measured.
        config: Under which conditions.
        value: The figure.
        unit: Its unit.
        p50_ms: Percentiles of the single operations' times, where there are any.
        p95_ms: The same.
        p99_ms: The same.
        baseline: The same figure for what it is compared with.
        ratio: value / baseline.
    """

    name: str
    config: dict[str, Any]
    value: float
    unit: str
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    baseline: float | None = None
    ratio: float | None = field(default=None)

    def __post_init__(self) -> None:
        if self.ratio is None and self.baseline:
            object.__setattr__(self, "ratio", self.value / self.baseline)


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th percentile in milliseconds, by the names that Figure gives them."""
    if len(seconds) < 2:
        return {f"p{rank}_ms": 1000 * value for value in seconds for rank in (50, 95, 99)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{rank}_ms": 1000 * cuts[rank - 1] for rank in (50, 95, 99)}


def write_results(
    name: str,
    rows: Sequence[Figure],
    device: str,
    seen: Circumstances,
    seconds: float,
    folder: Path | None = None,
) -> Path:
    """Writes `<name>-<device>.json`.

    Args:
        name: Of the benchmark.
        rows: Its figures.
        device: As the engine names it: `cpu`, or the name of a GPU.
        seen: Before it began.
        seconds: What it took.
        folder: Where; None for the results that are published.
    """
    kind = "cpu" if device == "cpu" else re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    meta = {
        **asdict(seen),
        "warnings": seen.warnings,
        "device": f"{_processor()}, {os.cpu_count()} cores" if kind == "cpu" else device,
        "versions": {package: _version(package) for package in PACKAGES}
        | {"python": platform.python_version()},
        "seconds": round(seconds),
    }
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{kind}.json"
    document = {"meta": meta, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def print_rows(rows: Sequence[Figure]) -> None:
    """Prints figures as a table."""
    head = f"{'name':34} {'value':>10} {'unit':12} {'p50 ms':>9} {'p99 ms':>9} {'baseline':>10}"
    lines = [f"{head} {'ratio':>6}"]
    for row in rows:
        numbers = [
            "" if number is None else f"{number:.3f}"
            for number in (row.p50_ms, row.p99_ms, row.baseline, row.ratio)
        ]
        lines.append(
            f"{row.name:34} {row.value:10.3f} {row.unit:12} "
            f"{numbers[0]:>9} {numbers[1]:>9} {numbers[2]:>10} {numbers[3]:>6}"
        )
    print("\n".join(lines))  # noqa: T201 - the table is this command's output


def _busy_s() -> float:
    """Processor seconds that anybody has taken since the machine started (proc(5), /proc/stat)."""
    user, nice, system, _, _, *others = (
        int(field)
        for field in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    )
    ticks = user + nice + system + sum(others[:3])
    return ticks / os.sysconf("SC_CLK_TCK")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return match.group(1) if match else platform.machine()
