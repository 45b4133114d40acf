"""`python -m benchmarks [NAME ...]`: runs benchmarks, prints their tables, writes their results."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gradients import measure_gradients
from benchmarks.latency import measure_latency
from benchmarks.overhead import measure_overhead
from benchmarks.overload import measure_overload
from benchmarks.report import print_rows, write_results
from benchmarks.service_load import measure_load
from benchmarks.uploads import measure_uploads
from codefend.service.settings import Settings

__all__ = ["main"]


class Benchmark(enum.StrEnum):
    """What can be measured."""

    LATENCY = "latency"
    SERVICE = "service"
    OVERLOAD = "overload"
    GRADIENTS = "gradients"
    UPLOADS = "uploads"
    OVERHEAD = "overhead"


def main(
    names: Annotated[list[Benchmark] | None, typer.Argument(help="Default: all.")] = None,
    purifier: Annotated[str | None, typer.Option(help="Directory or hub id.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0")] = "auto",
    clients: Annotated[int, typer.Option(help="Clients at once (service).")] = 32,
    uploads: Annotated[int, typer.Option(help="Uploads in flight at once (uploads).")] = 50,
    seconds: Annotated[float, typer.Option(help="How long (service, overload, uploads).")] = 60.0,
    requests: Annotated[
        int | None,
        typer.Option(help="Of each size (latency, gradients: 20); by one client (overhead: 2000)."),
    ] = None,
    litellm: Annotated[
        str | None,
        typer.Option(envvar="LITELLM", help="The litellm command, to be beside (overhead)."),
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(help="Another checkout, measured in the same run (overhead).")
    ] = None,
) -> None:
    """Measures, prints, and writes benchmarks/results/NAME-DEVICE.json."""
    weights = purifier or Settings().purifier
    for name in names or list(Benchmark):
        if name is Benchmark.LATENCY:
            rows, measured_on = measure_latency(weights, device, requests or 20)
        elif name is Benchmark.GRADIENTS:
            rows, measured_on = measure_gradients(weights, device, requests or 20)
        elif name is Benchmark.OVERLOAD:
            rows, measured_on = measure_overload(weights, device, seconds)
        elif name is Benchmark.UPLOADS:
            rows, measured_on = measure_uploads(weights, device, uploads, seconds)
        elif name is Benchmark.OVERHEAD:
            rows, measured_on = measure_overhead(litellm, requests or 2000, beside)
        else:
            rows, measured_on = measure_load(weights, device, clients, seconds)
        typer.echo(f"\n{name.value} on {measured_on}")
        print_rows(rows)
        typer.echo(f"written to {write_results(name.value, rows, measured_on)}")


if __name__ == "__main__":
    typer.run(main)
