"""`python -m benchmarks [NAME ...]`: runs benchmarks, prints their tables, writes their results."""

import enum
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from benchmarks.codec import measure_codec
from benchmarks.engine import measure_engine
from benchmarks.gradients import measure_gradients
from benchmarks.latency import measure_latency
from benchmarks.overhead import measure_overhead
from benchmarks.overload import measure_overload
from benchmarks.protocols import measure_protocols
from benchmarks.report import Figure, print_rows, write_results
from benchmarks.service_load import measure_load
from benchmarks.uploads import measure_uploads
from codefend.lab.experiments.settings import RunSettings, read_settings
from codefend.service.settings import Settings

__all__ = ["main"]


class Benchmark(enum.StrEnum):
    """What can be measured."""

    ENGINE = "engine"
    LATENCY = "latency"
    SERVICE = "service"
    OVERLOAD = "overload"
    GRADIENTS = "gradients"
    UPLOADS = "uploads"
    OVERHEAD = "overhead"
    CODEC = "codec"
    PROTOCOLS = "protocols"


class BenchmarkRun(RunSettings):
    """Measures, prints, and writes benchmarks/results/NAME-DEVICE.json."""

    names: CliPositionalArg[tuple[Benchmark, ...]] = ()
    """Which; all where none is named."""
    purifier: str = Settings().purifier
    """Directory or hub id."""
    device: str = "auto"
    """auto, cpu, cuda:0"""
    clients: int = 32
    """Clients at once (service)."""
    uploads: int = 50
    """Uploads in flight at once (uploads)."""
    seconds: float = 60.0
    """How long (service, overload, uploads)."""
    requests: int | None = None
    """Of each size (engine, latency, gradients: 20; codec: 50); by one client (overhead,
    protocols: 2000)."""
    litellm: str | None = os.environ.get("LITELLM")
    """The litellm command, to be beside (overhead); also LITELLM."""
    beside: Path | None = None
    """Another checkout, measured in the same run (overhead)."""


MEASURES: dict[Benchmark, Callable[[BenchmarkRun], tuple[list[Figure], str]]] = {
    Benchmark.ENGINE: lambda r: measure_engine(r.purifier, r.device, r.requests or 20),
    Benchmark.LATENCY: lambda r: measure_latency(r.purifier, r.device, r.requests or 20),
    Benchmark.SERVICE: lambda r: measure_load(r.purifier, r.device, r.clients, r.seconds),
    Benchmark.OVERLOAD: lambda r: measure_overload(r.purifier, r.device, r.seconds),
    Benchmark.GRADIENTS: lambda r: measure_gradients(r.purifier, r.device, r.requests or 20),
    Benchmark.UPLOADS: lambda r: measure_uploads(r.purifier, r.device, r.uploads, r.seconds),
    Benchmark.CODEC: lambda r: measure_codec(r.requests or 50),
    Benchmark.PROTOCOLS: lambda r: measure_protocols(r.requests or 2000),
    Benchmark.OVERHEAD: lambda r: measure_overhead(r.litellm, r.requests or 2000, r.beside),
}
"""Each gives its figures, and the device that they were measured on."""


def main(arguments: Sequence[str]) -> None:
    """Measures what the command line names."""
    run = read_settings(BenchmarkRun, arguments, program="python -m benchmarks")
    for name in run.names or Benchmark:
        figures, measured_on = MEASURES[name](run)
        sys.stdout.write(f"\n{name.value} on {measured_on}\n")
        print_rows(figures)
        sys.stdout.write(f"written to {write_results(name.value, figures, measured_on)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
