"""How requests come: at random times at a fixed rate, or as fast as patient clients are answered.

Clients that wait for their answers slow down with the service, and never overload it: only an open
loop, whose requests come whether those before them are answered or not, shows what a rate does. The
sender shares the processors with the service, so that what both take is told.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from benchmarks.family import measure_family_cpu_s, measure_tree_mib
from benchmarks.lean_client import LeanConnections, LeanReply, write_request
from benchmarks.server import RunningServer
from benchmarks.trace import mixed_trace

__all__ = ["NUM_PATIENT_CLIENTS", "SMALL_SIZES", "Phase", "run_phase", "send_elsewhere"]

# Small, so that there are enough answers to take a percentile of on a processor too.
SMALL_SIZES = ((128, 128), (192, 256), (256, 256))
# Enough to fill the next batch while one runs.
NUM_PATIENT_CLIENTS = 12
PROBE_PAUSE_S = 1.0
# The kernel walks through all of the memory to count it: 25 ms of a processor each time.
PROBES_PER_MEMORY = 5
HEADERS = {"content-type": "image/jpeg", "accept": "image/*"}
# Longer than any deadline: whatever is lost shows as an error and not as a hung benchmark.
CLIENT_TIMEOUT_S = 120.0
LOST = LeanReply(0)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, and its time."""

    reply: LeanReply
    seconds: float


@dataclass(slots=True)
class Phase:
    """What clients and probes saw while requests came in one way.

    Attributes:
        answers: All of them.
        memory_mib: Of the service with its processes, every few seconds.
        probe_seconds: What /healthz took.
        wall_s: From the first request to the last answer.
        sender_cpu_s: What the sender took of the processors.
        service_cpu_s: What the service and its processes took.
    """

    answers: list[_Answer] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    probe_seconds: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    sender_cpu_s: float = 0.0
    service_cpu_s: float = 0.0

    def seconds_of(self, status: int) -> list[float]:
        """Times of the answers with a status."""
        return [answer.seconds for answer in self.answers if answer.reply.status == status]

    @property
    def answers_per_second(self) -> float:
        """Purified images, that is."""
        return len(self.seconds_of(200)) / self.wall_s


async def run_phase(
    server: RunningServer,
    duration_s: float,
    rate: float | None,
    sizes: Sequence[tuple[int, int]] = SMALL_SIZES,
) -> Phase:
    """Sends at a rate, or with patient clients; ends when everything sent is answered.

    Args:
        server: Is asked.
        duration_s: How long requests are sent.
        rate: Requests a second, by a Poisson process; None for patient clients.
        sizes: Of the pictures, evenly mixed.
    """
    phase = Phase()
    connections = LeanConnections(server.url)
    probing = asyncio.create_task(_probe(connections, server, phase))
    service_before_s, sender_before_s = measure_family_cpu_s(server.pid), time.process_time()
    started_s = time.perf_counter()
    requests = _requests(server, sizes)
    if rate is None:
        await _send_patiently(connections, requests, phase, started_s + duration_s)
    else:
        await _send_at_rate(connections, requests, phase, started_s + duration_s, rate)
    phase.wall_s = time.perf_counter() - started_s
    phase.service_cpu_s = measure_family_cpu_s(server.pid) - service_before_s
    phase.sender_cpu_s = time.process_time() - sender_before_s
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    connections.close()
    return phase


async def send_elsewhere(sink: RunningServer, duration_s: float, rate: float) -> None:
    """Sends as much to another server: what that alone takes of the machine."""
    connections = LeanConnections(sink.url)
    ends_s = time.perf_counter() + duration_s
    await _send_at_rate(connections, _requests(sink, SMALL_SIZES), Phase(), ends_s, rate)
    connections.close()


async def _send_patiently(
    connections: LeanConnections, requests: Iterator[bytes], phase: Phase, ends_s: float
) -> None:
    async def send_until() -> None:
        while time.perf_counter() < ends_s:
            reply = await _send(connections, phase, next(requests))
            await asyncio.sleep(0 if reply.status == 200 else 1)

    await asyncio.gather(*(send_until() for _ in range(NUM_PATIENT_CLIENTS)))


async def _send_at_rate(
    connections: LeanConnections,
    requests: Iterator[bytes],
    phase: Phase,
    ends_s: float,
    rate: float,
) -> None:
    chance = random.Random(0)  # noqa: S311 - reproducible arrivals, not a secret
    next_s = time.perf_counter()
    async with asyncio.TaskGroup() as sending:
        while next_s < ends_s:
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
            sending.create_task(_send(connections, phase, next(requests)))
            next_s += chance.expovariate(rate)


def _requests(server: RunningServer, sizes: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Endless requests; those of one size are written once."""
    write = cache(lambda jpeg: write_request(server.url, "/v1/purify", jpeg, HEADERS))
    for picture in mixed_trace(sizes=sizes):
        yield write(picture.jpeg)


async def _send(connections: LeanConnections, phase: Phase, request: bytes) -> LeanReply:
    started_s = time.perf_counter()
    try:
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            reply = await connections.exchange(request)
    except TimeoutError:
        reply = LOST
    phase.answers.append(_Answer(reply, time.perf_counter() - started_s))
    return reply


async def _probe(connections: LeanConnections, server: RunningServer, phase: Phase) -> None:
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
