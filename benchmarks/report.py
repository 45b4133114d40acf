"""The format of benchmark results: rows with a value, percentiles and a baseline, as JSON."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Figure", "percentiles_ms", "print_rows", "write_results"]

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "diffusers", "numpy", "pillow", "fastapi", "uvicorn", "openvino")


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


def write_results(name: str, rows: Sequence[Figure], device: str) -> Path:
    """Writes `results/<name>-<device>.json`.

    Args:
        name: Of the benchmark.
        rows: Its figures.
        device: As the engine names it: `cpu`, or the name of a GPU.
    """
    kind = "cpu" if device == "cpu" else re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    meta = {
        "commit": _commit(),
        "device": f"{_processor()}, {os.cpu_count()} cores" if kind == "cpu" else device,
        "load": os.getloadavg()[0],
        "versions": {package: _version(package) for package in PACKAGES}
        | {"python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{kind}.json"
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return match.group(1) if match else platform.machine()
