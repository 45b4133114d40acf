"""`python -m benchmarks [NAME ...]`: runs benchmarks, prints their tables, writes their results.

All of them take twenty minutes on two quiet processors; each says what it will take. Nothing
else should run meanwhile: what does is measured, too, and stands in the results as a warning.
"""

import enum
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_settings import CliPositionalArg

from benchmarks.bottleneck import measure_bottleneck
from benchmarks.codec import measure_codec
from benchmarks.engine import measure_engine
from benchmarks.gradients import measure_gradients
from benchmarks.growth import measure_growth
from benchmarks.large import measure_large
from benchmarks.latency import measure_latency
from benchmarks.overhead import measure_overhead
from benchmarks.overload import measure_overload
from benchmarks.protocols import measure_protocols
from benchmarks.rates import measure_rates
from benchmarks.report import RESULTS, Circumstances, Figure, print_rows, write_results
from benchmarks.service_load import measure_load
from benchmarks.start import measure_start
from benchmarks.uploads import measure_uploads
from codefend.lab.experiments.settings import RunSettings, read_settings
from codefend.service.settings import Settings

__all__ = ["main"]


class Benchmark(enum.StrEnum):
    """What can be measured."""

    ENGINE = "engine"
    LATENCY = "latency"
    RATES = "rates"
    SERVICE = "service"
    OVERLOAD = "overload"
    GRADIENTS = "gradients"
    UPLOADS = "uploads"
    LARGE = "large"
    OVERHEAD = "overhead"
    CODEC = "codec"
    PROTOCOLS = "protocols"
    BOTTLENECK = "bottleneck"
    GROWTH = "growth"
    START = "start"


class BenchmarkRun(RunSettings):
    """Measures, prints, and writes benchmarks/results/NAME-DEVICE.json."""

    names: CliPositionalArg[tuple[Benchmark, ...]] = ()
    """Which; all where none is named."""
    purifier: str = Settings().purifier
    """Directory or hub id."""
    device: str = "auto"
    """auto, cpu, cuda:0"""
    clients: int | None = None
    """Clients at once (service: 64; bottleneck: 32)."""
    uploads: int = 50
    """Uploads in flight at once (uploads)."""
    seconds: float = 30.0
    """How long (service, overload); a half of it each probe (uploads), a third each service
    (large), a quarter each rate (rates), a sixth each number of clients (growth, bottleneck)."""
    requests: int | None = None
    """Of each size (engine, latency: 12; gradients: 10; codec: 50); by one client (overhead:
    1200; protocols: 1500); starts (start: 2)."""
    litellm: str | None = os.environ.get("LITELLM")
    """The litellm command, to be beside (overhead); also LITELLM."""
    beside: Path | None = None
    """Another checkout, measured in the same run (overhead)."""
    side_px: int = 512
    """Sides of the pictures (bottleneck)."""
    most_pixels: int | None = None
    """Only batches of at most so many pixels (engine)."""
    compiled: bool = False
    """Also what torch.compile makes of a network on a GPU, in minutes (engine)."""
    results: Path = RESULTS
    """Folder that the figures are written to."""
    strict: bool = False
    """Refuse to measure where files differ from the commit, or other work runs."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One benchmark: what gives its figures and their device, and the seconds that it takes.

    On two quiet processors, with the amounts that hold where none are named.
    """

    measure: Callable[[BenchmarkRun], tuple[list[Figure], str]]
    seconds: int


PARTS: dict[Benchmark, _Part] = {
    Benchmark.ENGINE: _Part(
        lambda r: measure_engine(
            r.purifier, r.device, r.requests or 12, r.most_pixels, with_compiled=r.compiled
        ),
        75,
    ),
    Benchmark.LATENCY: _Part(lambda r: measure_latency(r.purifier, r.device, r.requests or 12), 25),
    Benchmark.RATES: _Part(lambda r: measure_rates(r.purifier, r.device, r.seconds / 4), 70),
    Benchmark.SERVICE: _Part(
        lambda r: measure_load(r.purifier, r.device, r.clients or 64, r.seconds), 70
    ),
    Benchmark.OVERLOAD: _Part(lambda r: measure_overload(r.purifier, r.device, r.seconds), 75),
    Benchmark.GRADIENTS: _Part(
        lambda r: measure_gradients(r.purifier, r.device, r.requests or 10), 25
    ),
    Benchmark.UPLOADS: _Part(
        lambda r: measure_uploads(r.purifier, r.device, r.uploads, r.seconds / 2), 75
    ),
    Benchmark.LARGE: _Part(lambda r: measure_large(r.purifier, r.device, r.seconds / 3), 180),
    Benchmark.OVERHEAD: _Part(
        lambda r: measure_overhead(r.litellm, r.requests or 1200, r.beside), 75
    ),
    Benchmark.CODEC: _Part(lambda r: measure_codec(r.requests or 50), 30),
    Benchmark.START: _Part(lambda r: measure_start(r.purifier, r.device, r.requests or 2), 55),
    Benchmark.GROWTH: _Part(lambda r: measure_growth(r.purifier, r.device, r.seconds / 6), 55),
    Benchmark.PROTOCOLS: _Part(lambda r: measure_protocols(r.requests or 1500), 30),
    Benchmark.BOTTLENECK: _Part(
        lambda r: measure_bottleneck(
            r.purifier, r.device, r.clients or 32, r.seconds / 6, r.side_px
        ),
        45,
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Measures what the command line names."""
    run = read_settings(BenchmarkRun, arguments, program="python -m benchmarks")
    names = run.names or tuple(Benchmark)
    left_s = sum(PARTS[name].seconds for name in names)
    for number, name in enumerate(names, start=1):
        about = f"about {PARTS[name].seconds} s, {left_s} s for all that is left"
        sys.stdout.write(f"\n{name.value} ({number} of {len(names)}): {about}\n")
        sys.stdout.flush()
        seen = Circumstances.look()
        if run.strict and seen.warnings:
            raise SystemExit(f"{name.value} was not measured: {', '.join(seen.warnings)}")
        for warning in seen.warnings:
            sys.stdout.write(f"warning: {warning}\n")
        started_s = time.monotonic()
        figures, measured_on = PARTS[name].measure(run)
        took_s = time.monotonic() - started_s
        print_rows(figures)
        path = write_results(name.value, figures, measured_on, seen, took_s, run.results)
        sys.stdout.write(f"on {measured_on}, {took_s:.0f} s: {path}\n")
        left_s -= PARTS[name].seconds


if __name__ == "__main__":
    main(sys.argv[1:])
