"""Ten times as many requests as the service can answer, beside the same service at its capacity.

The sender shares the processors with the service, so that what both take is told, too, and what the
capacity is while the same requests are sent to a server that does nothing.
"""

import asyncio
import statistics
from collections.abc import Iterator

import uvloop

from benchmarks.arrivals import NUM_PATIENT_CLIENTS, SMALL_SIZES, Phase, run_phase, send_elsewhere
from benchmarks.engine import load_warm_engine
from benchmarks.report import Figure, percentiles_ms
from benchmarks.rivals import run_fixed_upstream
from benchmarks.server import RunningServer, run_server
from codefend.service.settings import Settings

__all__ = ["measure_overload"]

FACTOR = 10


def measure_overload(purifier: str, device: str, duration_s: float) -> tuple[list[Figure], str]:
    """Measures the capacity, overloads the service, and measures the capacity again.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        duration_s: How long the overload lasts; the capacity takes two thirds of that.

    Returns:
        The rows, and the device as the engine names it.
    """
    with run_server(purifier=purifier, devices=device) as server:
        # Until costs are learned some are refused: a low capacity would flatter the goodput.
        uvloop.run(run_phase(server, duration_s / 6, None))
        before = uvloop.run(run_phase(server, duration_s / 3, None))
        rate = FACTOR * before.answers_per_second
        overload = uvloop.run(run_phase(server, duration_s, rate))
        after = uvloop.run(run_phase(server, duration_s / 3, None))
        with run_fixed_upstream() as sink:
            beside_sender = uvloop.run(_run_beside_sender(server, sink, duration_s / 3, rate))
    measured_on = load_warm_engine(purifier, device, []).facts.device
    config = {
        "factor": FACTOR,
        "seconds": duration_s,
        "sizes": SMALL_SIZES,
        "requests_per_second": rate,
    }
    rows = list(_rows(before, overload, after, config))
    told = {**config, "baseline": "capacity while as many requests are sent, but to another server"}
    rows.append(
        Figure(
            "goodput_beside_sender",
            told,
            overload.answers_per_second,
            "images/s",
            baseline=beside_sender.answers_per_second,
        )
    )
    return rows, measured_on


def _rows(
    before: Phase, overload: Phase, after: Phase, config: dict[str, object]
) -> Iterator[Figure]:
    capacity = statistics.mean([before.answers_per_second, after.answers_per_second])
    patient = before.seconds_of(200) + after.seconds_of(200)
    at_capacity = {**config, "clients": NUM_PATIENT_CLIENTS, "requests_per_second": None}
    yield Figure("capacity", at_capacity, capacity, "images/s", **percentiles_ms(patient))
    unanswered = len(before.answers) + len(after.answers) - len(patient)
    yield Figure("capacity_other_answers", at_capacity, unanswered, "responses")
    accepted, refused = overload.seconds_of(200), overload.seconds_of(429)
    beside = {**config, "baseline": "capacity, before and after"}
    goodput = overload.answers_per_second
    yield Figure(
        "goodput", beside, goodput, "images/s", baseline=capacity, **percentiles_ms(accepted)
    )
    deadline_s = Settings().deadline_s
    p99_s = percentiles_ms(accepted)["p99_ms"] / 1000
    yield Figure(
        "accepted_p99", {**config, "baseline": "deadline"}, p99_s, "s", baseline=deadline_s
    )
    refusal = percentiles_ms(refused)
    yield Figure("refusal_p99", config, refusal["p99_ms"], "ms", **refusal)
    waits = [a.reply.retry_after for a in overload.answers if a.reply.status == 429]
    usable_s = [int(text) for text in waits if text.isdecimal() and int(text) >= 1]
    yield Figure("answers_200", config, len(accepted), "responses")
    yield Figure("answers_429", config, len(refused), "responses")
    yield Figure("retry_after_median", config, statistics.median(usable_s), "s")
    yield Figure("retry_after_missing", config, len(waits) - len(usable_s), "responses")
    others = len(overload.answers) - len(accepted) - len(refused)
    yield Figure("errors_but_429", config, others, "responses")
    third = max(1, len(overload.memory_mib) // 3)
    yield Figure(
        "memory_last_third",
        {**config, "baseline": "second third of the overload"},
        statistics.mean(overload.memory_mib[-third:]),
        "MiB",
        baseline=statistics.mean(overload.memory_mib[third : 2 * third]),
    )
    probes = percentiles_ms(overload.probe_seconds)
    yield Figure("healthz_under_overload", config, probes["p99_ms"], "ms", **probes)
    yield from _processor_rows({"capacity": before, "overload": overload}, config)


def _processor_rows(phases: dict[str, Phase], config: dict[str, object]) -> Iterator[Figure]:
    """Processors that the sender, and the service with all its processes, kept busy."""
    for name, phase in phases.items():
        yield Figure(
            f"{name}_service_processors", config, phase.service_cpu_s / phase.wall_s, "cores"
        )
        yield Figure(
            f"{name}_sender_processors", config, phase.sender_cpu_s / phase.wall_s, "cores"
        )


async def _run_beside_sender(
    server: RunningServer, sink: RunningServer, duration_s: float, rate: float
) -> Phase:
    """The capacity of a machine that has to send the overload too: what it alone takes away."""
    sending = asyncio.create_task(send_elsewhere(sink, duration_s, rate))
    phase = await run_phase(server, duration_s, None)
    await sending
    return phase
