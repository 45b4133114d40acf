"""The service at rising rates of requests, up to saturation: latency whole and by stage.

An open loop: see `arrivals.py`. The rates are shares of the capacity that patient clients find in
the same run; that capacity is beside the engine alone, one image at a time, on the same pictures.
"""

from collections.abc import Iterator

import uvloop

from benchmarks.arrivals import NUM_PATIENT_CLIENTS, SMALL_SIZES, Phase, run_phase
from benchmarks.engine import load_warm_engine, time_pictures
from benchmarks.report import Figure, percentiles_ms
from benchmarks.scrape import Scrape, scrape
from benchmarks.server import run_server
from benchmarks.trace import make_picture, mixed_trace
from codefend.lab.progress import progress
from codefend.service.metrics import Stage

__all__ = ["measure_rates"]

SHARES = (0.25, 0.5, 0.75, 1.0, 1.2)
_STAGES = (Stage.DECODE, Stage.QUEUE, Stage.PURIFY, Stage.ENCODE)
_HISTOGRAM = "codefend_stage_duration_seconds"


def measure_rates(purifier: str, device: str, duration_s: float) -> tuple[list[Figure], str]:
    """Finds the capacity, then sends at every share of it.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        duration_s: How long each rate is sent, and the capacity is looked for.

    Returns:
        The rows, and the device as the engine names it.
    """
    rows: list[Figure] = []
    with run_server(purifier=purifier, devices=device) as server:
        # Until costs are learned some are refused.
        uvloop.run(run_phase(server, duration_s / 2, None))
        found = uvloop.run(run_phase(server, duration_s, None))
        capacity = found.answers_per_second
        for share in progress(SHARES, desc="rates", unit="rate"):
            before = scrape(server.url)
            phase = uvloop.run(run_phase(server, duration_s, share * capacity))
            rows += _rows_at(share, share * capacity, phase, scrape(server.url).since(before))
    engine = load_warm_engine(purifier, device, [make_picture(*size) for size in SMALL_SIZES])
    trace = mixed_trace(sizes=SMALL_SIZES)
    seconds: list[float] = []
    while sum(seconds) < duration_s:
        seconds += time_pictures(engine, [next(trace) for _ in SMALL_SIZES])
    config = {
        "clients": NUM_PATIENT_CLIENTS,
        "sizes": SMALL_SIZES,
        "baseline": "engine alone, one image at a time, same pictures",
    }
    times = percentiles_ms(found.seconds_of(200))
    alone = len(seconds) / sum(seconds)
    found_row = Figure("capacity", config, capacity, "images/s", baseline=alone, **times)
    return [found_row, *rows], engine.facts.device


def _rows_at(share: float, rate: float, phase: Phase, seen: Scrape) -> Iterator[Figure]:
    """What one rate did; where goodput stays below what was sent, the rest was refused."""
    config = {"share": share, "requests_per_second": rate, "sizes": SMALL_SIZES}
    sent = len(phase.answers) / phase.wall_s
    yield Figure(
        f"goodput_at_{share:.0%}",
        {**config, "baseline": "requests sent"},
        phase.answers_per_second,
        "images/s",
        baseline=sent,
        **percentiles_ms(phase.seconds_of(200)),
    )
    refused = phase.seconds_of(429)
    yield Figure(
        f"refused_at_{share:.0%}",
        {**config, "baseline": "all answers"},
        len(refused),
        "responses",
        baseline=len(phase.answers),
        **percentiles_ms(refused),
    )
    lost = len(phase.answers) - len(phase.seconds_of(200)) - len(refused)
    yield Figure(f"errors_but_429_at_{share:.0%}", config, lost, "responses")
    whole = sum(phase.seconds_of(200)) / max(1, len(phase.seconds_of(200)))
    for stage in _STAGES:
        mean = seen.mean(_HISTOGRAM, stage=stage.value)
        quantiles = {
            f"p{rank}_ms": 1000 * seen.quantile(_HISTOGRAM, rank / 100, stage=stage.value)
            for rank in (50, 95, 99)
        }
        yield Figure(
            f"{stage.value}_at_{share:.0%}",
            {**config, "baseline": "mean of the whole request"},
            1000 * mean,
            "ms",
            baseline=1000 * whole,
            **quantiles,
        )
    for who, cpu_s in (("service", phase.service_cpu_s), ("sender", phase.sender_cpu_s)):
        yield Figure(f"{who}_processors_at_{share:.0%}", config, cpu_s / phase.wall_s, "cores")
    if phase.memory_mib:
        yield Figure(f"memory_at_{share:.0%}", config, max(phase.memory_mib), "MiB")
