"""Ten times as many requests as the service can answer, beside the same service at its capacity.

Requests come at random times and at a fixed rate, whether those before them are answered or not:
clients that wait for their answers would slow down with the service, and never overload it.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from benchmarks.engine import load_warm_engine
from benchmarks.memory import measure_tree_mib
from benchmarks.report import Row, percentiles_ms
from benchmarks.server import RunningServer, run_server
from benchmarks.trace import Picture, mixed_trace
from service.settings import Settings

__all__ = ["measure_overload"]

FACTOR = 10
# Small, so that there are enough answers to take a percentile of on a processor too.
SIZES = ((128, 128), (192, 256), (256, 256))
# Enough to fill the next batch while one runs.
NUM_PATIENT_CLIENTS = 12
PROBE_PAUSE_S = 1.0
HEADERS = {"content-type": "image/jpeg", "accept": "image/png"}
# Longer than any deadline: whatever is lost shows as an error and not as a hung benchmark.
CLIENT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class _Reply:
    """One answer: its status (0 if there was none), its time, and its Retry-After."""

    status: int
    seconds: float
    retry_after: str = ""


@dataclass(slots=True)
class _Phase:
    """What clients and probes saw while requests came at one rate."""

    replies: list[_Reply] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    probe_seconds: list[float] = field(default_factory=list)
    wall_s: float = 0.0

    def seconds_of(self, status: int) -> list[float]:
        return [reply.seconds for reply in self.replies if reply.status == status]

    @property
    def answers_per_second(self) -> float:
        return len(self.seconds_of(200)) / self.wall_s


def measure_overload(purifier: str, device: str, duration_s: float) -> tuple[list[Row], str]:
    """Measures the capacity, overloads the service, and measures the capacity again.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        duration_s: How long the overload lasts; the capacity takes two thirds of that.

    Returns:
        The rows, and the device as the engine names it.
    """
    with run_server(purifier=purifier, devices=device) as server:
        before = asyncio.run(_run(server, duration_s / 3, None))
        rate = FACTOR * before.answers_per_second
        overload = asyncio.run(_run(server, duration_s, rate))
        after = asyncio.run(_run(server, duration_s / 3, None))
    measured_on = load_warm_engine(purifier, device, []).facts.device
    config = {"factor": FACTOR, "seconds": duration_s, "sizes": SIZES, "requests_per_second": rate}
    return list(_rows(before, overload, after, config)), measured_on


def _rows(
    before: _Phase, overload: _Phase, after: _Phase, config: dict[str, object]
) -> Iterator[Row]:
    capacity = statistics.mean([before.answers_per_second, after.answers_per_second])
    patient = before.seconds_of(200) + after.seconds_of(200)
    at_capacity = {**config, "clients": NUM_PATIENT_CLIENTS, "requests_per_second": None}
    yield Row("capacity", at_capacity, capacity, "images/s", **percentiles_ms(patient))
    unanswered = len(before.replies) + len(after.replies) - len(patient)
    yield Row("capacity_other_answers", at_capacity, unanswered, "responses")
    accepted, refused = overload.seconds_of(200), overload.seconds_of(429)
    beside = {**config, "baseline": "capacity, before and after"}
    goodput = overload.answers_per_second
    yield Row("goodput", beside, goodput, "images/s", baseline=capacity, **percentiles_ms(accepted))
    deadline_s = Settings().deadline_s
    p99_s = percentiles_ms(accepted)["p99_ms"] / 1000
    yield Row("accepted_p99", {**config, "baseline": "deadline"}, p99_s, "s", baseline=deadline_s)
    refusal = percentiles_ms(refused)
    yield Row("refusal_p99", config, refusal["p99_ms"], "ms", **refusal)
    waits = [reply.retry_after for reply in overload.replies if reply.status == 429]
    usable_s = [int(text) for text in waits if text.isdecimal() and int(text) >= 1]
    yield Row("answers_200", config, len(accepted), "responses")
    yield Row("answers_429", config, len(refused), "responses")
    yield Row("retry_after_median", config, statistics.median(usable_s), "s")
    yield Row("retry_after_missing", config, len(waits) - len(usable_s), "responses")
    others = len(overload.replies) - len(accepted) - len(refused)
    yield Row("errors_but_429", config, others, "responses")
    third = max(1, len(overload.memory_mib) // 3)
    yield Row(
        "memory_last_third",
        {**config, "baseline": "second third of the overload"},
        statistics.mean(overload.memory_mib[-third:]),
        "MiB",
        baseline=statistics.mean(overload.memory_mib[third : 2 * third]),
    )
    probes = percentiles_ms(overload.probe_seconds)
    yield Row("healthz_under_overload", config, probes["p99_ms"], "ms", **probes)


async def _run(server: RunningServer, duration_s: float, rate: float | None) -> _Phase:
    """Sends at a rate, or with patient clients; ends when everything sent is answered."""
    phase = _Phase()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=CLIENT_TIMEOUT_S, limits=limits
    ) as client:
        probing = asyncio.create_task(_probe(client, server, phase))
        started_s = time.perf_counter()
        if rate is None:
            await _send_patiently(client, phase, started_s + duration_s)
        else:
            await _send_at_rate(client, phase, started_s + duration_s, rate)
        phase.wall_s = time.perf_counter() - started_s
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
    return phase


async def _send_patiently(client: httpx.AsyncClient, phase: _Phase, ends_s: float) -> None:
    trace = mixed_trace(sizes=SIZES)

    async def send_until() -> None:
        while time.perf_counter() < ends_s:
            reply = await _send(client, phase, next(trace))
            await asyncio.sleep(0 if reply.status == 200 else 1)

    await asyncio.gather(*(send_until() for _ in range(NUM_PATIENT_CLIENTS)))


async def _send_at_rate(
    client: httpx.AsyncClient, phase: _Phase, ends_s: float, rate: float
) -> None:
    chance = random.Random(0)  # noqa: S311 - reproducible arrivals, not a secret
    trace = mixed_trace(sizes=SIZES)
    next_s = time.perf_counter()
    async with asyncio.TaskGroup() as sending:
        while next_s < ends_s:
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
            sending.create_task(_send(client, phase, next(trace)))
            next_s += chance.expovariate(rate)


async def _send(client: httpx.AsyncClient, phase: _Phase, picture: Picture) -> _Reply:
    started_s = time.perf_counter()
    status, retry_after = 0, ""
    with contextlib.suppress(httpx.TransportError):
        response = await client.post("/v1/purify", content=picture.jpeg, headers=HEADERS)
        status, retry_after = response.status_code, response.headers.get("retry-after", "")
    reply = _Reply(status, time.perf_counter() - started_s, retry_after)
    phase.replies.append(reply)
    return reply


async def _probe(client: httpx.AsyncClient, server: RunningServer, phase: _Phase) -> None:
    while True:
        started_s = time.perf_counter()
        (await client.get("/healthz")).raise_for_status()
        phase.probe_seconds.append(time.perf_counter() - started_s)
        phase.memory_mib.append(await asyncio.to_thread(measure_tree_mib, server.pid))
        await asyncio.sleep(PROBE_PAUSE_S)
