"""Ten times as many requests as the service can answer, beside the same service at its capacity.

Requests come at random times and at a fixed rate, whether those before them are answered or not:
clients that wait for their answers would slow down with the service, and never overload it. The
sender shares the processors with the service, so that what both take is told, too, and what the
capacity is while the same requests are sent to a server that does nothing.
"""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import uvloop

from benchmarks.engine import load_warm_engine
from benchmarks.family import measure_family_cpu_s
from benchmarks.lean_client import LeanConnections, LeanReply, write_request
from benchmarks.memory import measure_tree_mib
from benchmarks.report import Figure, percentiles_ms
from benchmarks.rivals import run_fixed_upstream
from benchmarks.server import RunningServer, run_server
from benchmarks.trace import mixed_trace
from codefend.service.settings import Settings

__all__ = ["measure_overload"]

FACTOR = 10
# Small, so that there are enough answers to take a percentile of on a processor too.
SIZES = ((128, 128), (192, 256), (256, 256))
# Enough to fill the next batch while one runs.
NUM_PATIENT_CLIENTS = 12
PROBE_PAUSE_S = 1.0
# The kernel walks through all of the memory to count it: 25 ms of a processor each time.
PROBES_PER_MEMORY = 5
HEADERS = {"content-type": "image/jpeg", "accept": "image/png"}
# Longer than any deadline: whatever is lost shows as an error and not as a hung benchmark.
CLIENT_TIMEOUT_S = 120.0
LOST = LeanReply(0)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, and its time."""

    reply: LeanReply
    seconds: float


@dataclass(slots=True)
class _Phase:
    """What clients and probes saw while requests came at one rate."""

    answers: list[_Answer] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    probe_seconds: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    sender_cpu_s: float = 0.0
    service_cpu_s: float = 0.0

    def seconds_of(self, status: int) -> list[float]:
        return [answer.seconds for answer in self.answers if answer.reply.status == status]

    @property
    def answers_per_second(self) -> float:
        return len(self.seconds_of(200)) / self.wall_s


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
        uvloop.run(_run(server, duration_s / 6, None))
        before = uvloop.run(_run(server, duration_s / 3, None))
        rate = FACTOR * before.answers_per_second
        overload = uvloop.run(_run(server, duration_s, rate))
        after = uvloop.run(_run(server, duration_s / 3, None))
        with run_fixed_upstream() as sink:
            beside_sender = uvloop.run(_run_beside_sender(server, sink, duration_s / 3, rate))
    measured_on = load_warm_engine(purifier, device, []).facts.device
    config = {"factor": FACTOR, "seconds": duration_s, "sizes": SIZES, "requests_per_second": rate}
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
    before: _Phase, overload: _Phase, after: _Phase, config: dict[str, object]
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


def _processor_rows(phases: dict[str, _Phase], config: dict[str, object]) -> Iterator[Figure]:
    """Processors that the sender, and the service with all its processes, kept busy."""
    for name, phase in phases.items():
        yield Figure(
            f"{name}_service_processors", config, phase.service_cpu_s / phase.wall_s, "cores"
        )
        yield Figure(
            f"{name}_sender_processors", config, phase.sender_cpu_s / phase.wall_s, "cores"
        )


async def _run(server: RunningServer, duration_s: float, rate: float | None) -> _Phase:
    """Sends at a rate, or with patient clients; ends when everything sent is answered."""
    phase = _Phase()
    connections = LeanConnections(server.url)
    probing = asyncio.create_task(_probe(connections, server, phase))
    service_before_s, sender_before_s = measure_family_cpu_s(server.pid), time.process_time()
    started_s = time.perf_counter()
    if rate is None:
        await _send_patiently(connections, server, phase, started_s + duration_s)
    else:
        await _send_at_rate(connections, server, phase, started_s + duration_s, rate)
    phase.wall_s = time.perf_counter() - started_s
    phase.service_cpu_s = measure_family_cpu_s(server.pid) - service_before_s
    phase.sender_cpu_s = time.process_time() - sender_before_s
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    connections.close()
    return phase


async def _run_beside_sender(
    server: RunningServer, sink: RunningServer, duration_s: float, rate: float
) -> _Phase:
    """The capacity of a machine that has to send the overload too: what it alone takes away."""
    elsewhere = LeanConnections(sink.url)
    ends_s = time.perf_counter() + duration_s
    sending = asyncio.create_task(_send_at_rate(elsewhere, sink, _Phase(), ends_s, rate))
    phase = await _run(server, duration_s, None)
    await sending
    elsewhere.close()
    return phase


async def _send_patiently(
    connections: LeanConnections, server: RunningServer, phase: _Phase, ends_s: float
) -> None:
    trace = _requests(server)

    async def send_until() -> None:
        while time.perf_counter() < ends_s:
            reply = await _send(connections, phase, next(trace))
            await asyncio.sleep(0 if reply.status == 200 else 1)

    await asyncio.gather(*(send_until() for _ in range(NUM_PATIENT_CLIENTS)))


async def _send_at_rate(
    connections: LeanConnections, server: RunningServer, phase: _Phase, ends_s: float, rate: float
) -> None:
    chance = random.Random(0)  # noqa: S311 - reproducible arrivals, not a secret
    trace = _requests(server)
    next_s = time.perf_counter()
    async with asyncio.TaskGroup() as sending:
        while next_s < ends_s:
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
            sending.create_task(_send(connections, phase, next(trace)))
            next_s += chance.expovariate(rate)


def _requests(server: RunningServer) -> Iterator[bytes]:
    """Endless requests; those of one size are written once."""
    write = cache(lambda jpeg: write_request(server.url, "/v1/purify", jpeg, HEADERS))
    for picture in mixed_trace(sizes=SIZES):
        yield write(picture.jpeg)


async def _send(connections: LeanConnections, phase: _Phase, request: bytes) -> LeanReply:
    started_s = time.perf_counter()
    try:
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            reply = await connections.exchange(request)
    except TimeoutError:
        reply = LOST
    phase.answers.append(_Answer(reply, time.perf_counter() - started_s))
    return reply


async def _probe(connections: LeanConnections, server: RunningServer, phase: _Phase) -> None:
    request = write_request(server.url, "/healthz")
    for number in itertools.count():
        started_s = time.perf_counter()
        if (await connections.exchange(request)).status != 200:
            msg = "the service is not alive"
            raise RuntimeError(msg)
        phase.probe_seconds.append(time.perf_counter() - started_s)
        if number % PROBES_PER_MEMORY == 0:
            phase.memory_mib.append(await asyncio.to_thread(measure_tree_mib, server.pid))
        await asyncio.sleep(PROBE_PAUSE_S)
