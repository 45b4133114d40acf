"""One client with pictures of 25 megapixels beside one with small ones: does it hold them up?

Three services: as it comes, which may refuse the large one; with a deadline that lets it run in
tiles; and with large pictures scaled down. Both clients send again as soon as they are answered.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvloop

from benchmarks.engine import load_warm_engine
from benchmarks.lean_client import LeanConnections, write_request
from benchmarks.report import Figure, percentiles_ms
from benchmarks.server import RunningServer, run_server
from benchmarks.trace import make_picture
from codefend.service.settings import Settings

__all__ = ["measure_large"]

LARGE_SIZE = (4080, 6120)
SMALL_SIZE = (128, 128)
PATIENT_DEADLINE_S = 240
SCALED_SIDE_PX = 2048
SCALED_TARGET_S = 10.0
WARM_UP_REQUESTS = 20
HEADERS = {"content-type": "image/jpeg", "accept": "image/png"}
REFUSED_PAUSE_S = 1.0

Answers = list[tuple[int, float]]
"""Status and seconds of each."""


@dataclass(slots=True)
class _Phase:
    """What both clients got."""

    small: Answers = field(default_factory=list)
    large: Answers = field(default_factory=list)


def measure_large(purifier: str, device: str, duration_s: float) -> tuple[list[Figure], str]:
    """Measures small pictures alone, and then beside large ones, on one service after another.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        duration_s: How long small ones are sent alone, and at least how long beside large ones.

    Returns:
        The rows, and the device as the engine names it.
    """
    usual_s = Settings().deadline_s
    rows: list[Figure] = []
    for name, settings, target_s in (
        ("as_it_comes", {}, usual_s),
        ("tiles", {"deadline_s": str(PATIENT_DEADLINE_S)}, float(PATIENT_DEADLINE_S)),
        ("scaled", {"purify_side_px": str(SCALED_SIDE_PX)}, SCALED_TARGET_S),
    ):
        with run_server(purifier=purifier, devices=device, **settings) as server:
            alone, beside = uvloop.run(_measure(server, duration_s))
        config = {"large": LARGE_SIZE, "small": SMALL_SIZE, "seconds": duration_s, **settings}
        rows += _rows(name, config, target_s, alone, beside)
    return rows, load_warm_engine(purifier, device, []).facts.device


async def _measure(server: RunningServer, duration_s: float) -> tuple[_Phase, _Phase]:
    connections = LeanConnections(server.url)
    small, large = (
        write_request(server.url, "/v1/purify", make_picture(*size).jpeg, HEADERS)
        for size in (SMALL_SIZE, LARGE_SIZE)
    )
    for _ in range(WARM_UP_REQUESTS):
        await connections.exchange(small)
    alone, beside = _Phase(), _Phase()
    await _send(connections, small, alone.small, duration_s)
    enough = asyncio.Event()
    sending = asyncio.create_task(_send(connections, small, beside.small, duration_s, enough))
    # The small ones go on until the last large one is answered: all of its time counts.
    await _send(connections, large, beside.large, duration_s)
    enough.set()
    await sending
    connections.close()
    return alone, beside


async def _send(
    connections: LeanConnections,
    request: bytes,
    answers: Answers,
    duration_s: float,
    enough: asyncio.Event | None = None,
) -> None:
    """Sends one request after another: for so long, or until it is enough."""
    ends_s = time.perf_counter() + duration_s
    while not enough.is_set() if enough else time.perf_counter() < ends_s:
        started_s = time.perf_counter()
        reply = await connections.exchange(request)
        answers.append((reply.status, time.perf_counter() - started_s))
        if reply.status != 200:
            await asyncio.sleep(REFUSED_PAUSE_S)


def _rows(
    name: str, config: dict[str, object], target_s: float, alone: _Phase, beside: _Phase
) -> Iterator[Figure]:
    quiet, busy = (percentiles_ms(_seconds(phase.small, 200)) for phase in (alone, beside))
    yield Figure(f"small_alone_{name}", config, quiet["p99_ms"], "ms", **quiet)
    told = {**config, "baseline": "alone, 99th percentile"}
    yield Figure(
        f"small_beside_{name}", told, busy["p99_ms"], "ms", baseline=quiet["p99_ms"], **busy
    )
    others = sum(status != 200 for status, _ in alone.small + beside.small)
    yield Figure(f"small_other_answers_{name}", config, others, "responses")
    refused = _seconds(beside.large, 413)
    yield Figure(f"large_answers_413_{name}", config, len(refused), "responses")
    lost = len(beside.large) - len(refused) - len(_seconds(beside.large, 200))
    yield Figure(f"large_other_answers_{name}", config, lost, "responses")
    served = _seconds(beside.large, 200)
    if served:
        told = {**config, "answers": len(served), "baseline": "the target"}
        yield Figure(
            f"large_{name}", told, max(served), "s", baseline=target_s, **percentiles_ms(served)
        )


def _seconds(answers: Answers, wanted: int) -> list[float]:
    return [seconds for status, seconds in answers if status == wanted]
