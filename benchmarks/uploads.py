"""Whether the service stays alive to its orchestrator: /healthz while large uploads are in flight.

The uploads are sent from a process of their own, so that the probe waits for the service alone.
"""

import asyncio
import base64
import contextlib
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from multiprocessing.connection import Connection

import httpx
import torch

from benchmarks.report import Figure, percentiles_ms
from benchmarks.scrape import scrape
from benchmarks.server import run_server
from benchmarks.trace import make_picture

__all__ = ["measure_uploads"]

HEIGHT_PX, WIDTH_PX = 3008, 4000
PROBE_PAUSE_S = 0.01
IDLE_S = 10.0
METER_PAUSE_S = 1.0
BOUNDARY = "fence"
PATIENT_DEADLINE_S = 3600

_Body = tuple[str, bytes]


def measure_uploads(
    purifier: str, device: str, num_uploads: int, duration_s: float
) -> tuple[list[Figure], str]:
    """Probes an idle service, and then the same one with uploads in flight all the time.

    Twice: as the service comes, when most are refused because they would be answered too late, and
    with a deadline so long that all of them are inside.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        num_uploads: Each is followed by the next as soon as it is answered.
        duration_s: How long they are sent.

    Returns:
        The rows, and the device by name.
    """
    settings = {"purifier": purifier, "devices": device, "max_requests": str(num_uploads + 8)}
    config: dict[str, object] = {"uploads": num_uploads, "megapixels": 12, "seconds": duration_s}
    rows = list(_measure(settings, config, num_uploads, duration_s))
    patient = settings | {"deadline_s": str(PATIENT_DEADLINE_S)}
    told = config | {"deadline_s": PATIENT_DEADLINE_S}
    for row in _measure(patient, told, num_uploads, duration_s):
        rows.append(replace(row, name=f"{row.name}_all_inside"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return rows, torch.cuda.get_device_name() if on_gpu else "cpu"


def _measure(
    settings: dict[str, str], config: dict[str, object], num_uploads: int, duration_s: float
) -> Iterator[Figure]:
    spawn = multiprocessing.get_context("spawn")
    with run_server(**settings) as server:
        idle = _probe(server.url, IDLE_S)[0]
        ours, theirs = spawn.Pipe()
        sender = spawn.Process(
            target=_send_uploads, args=(theirs, server.url, num_uploads, duration_s)
        )
        sender.start()
        theirs.close()  # so that its death is heard
        ours.recv()  # the bodies are made; from here on they are sent
        busy, in_flight = _probe(server.url, duration_s)
        statuses: Counter[int] = ours.recv()
        sender.join()
    yield from _rows(idle, busy, in_flight, statuses, config)


def _rows(
    idle: list[float],
    busy: list[float],
    in_flight: list[float],
    statuses: Counter[int],
    config: dict[str, object],
) -> Iterator[Figure]:
    alone, beside = percentiles_ms(idle), percentiles_ms(busy)
    yield Figure("healthz_idle_p99", {"probes": len(idle)}, alone["p99_ms"], "ms", **alone)
    probes = {**config, "probes": len(busy), "baseline": "the same service, idle"}
    yield Figure(
        "healthz_with_uploads_p99",
        probes,
        beside["p99_ms"],
        "ms",
        baseline=alone["p99_ms"],
        **beside,
    )
    yield Figure("healthz_with_uploads_worst", config, 1000 * max(busy), "ms")
    yield Figure("uploads_in_flight", config, sum(in_flight) / len(in_flight), "requests")
    for status, count in sorted(statuses.items()):
        yield Figure(f"answers_{status}", config, count, "responses")


def _probe(url: str, duration_s: float) -> tuple[list[float], list[float]]:
    """Asks /healthz every now and then, and less often how many requests are in the house."""
    seconds, in_flight = [], []
    ends_s = time.perf_counter() + duration_s
    next_meter_s = time.perf_counter() + METER_PAUSE_S
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/healthz").raise_for_status()
        while (started_s := time.perf_counter()) < ends_s:
            client.get("/healthz").raise_for_status()
            seconds.append(time.perf_counter() - started_s)
            if started_s > next_meter_s:
                in_flight.append(scrape(url).value("codefend_requests_in_flight"))
                next_meter_s = started_s + METER_PAUSE_S
            time.sleep(PROBE_PAUSE_S)
    return seconds, in_flight


def _send_uploads(connection: Connection, url: str, num_uploads: int, duration_s: float) -> None:
    """Runs in the sender's process."""
    bodies = list(_make_bodies())
    connection.send(None)
    connection.send(asyncio.run(_send_all(url, bodies, num_uploads, duration_s)))


def _make_bodies() -> Iterator[_Body]:
    """The same photograph as a raw body, as a form, and as base64 in JSON."""
    jpeg = make_picture(HEIGHT_PX, WIDTH_PX).jpeg
    yield "image/jpeg", jpeg
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    form = part.encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()
    yield f"multipart/form-data; boundary={BOUNDARY}", form
    text = json.dumps({"image": base64.b64encode(jpeg).decode()})
    yield "application/json", text.encode()


async def _send_all(
    url: str, bodies: list[_Body], num_uploads: int, duration_s: float
) -> Counter[int]:
    statuses: Counter[int] = Counter()
    limits = httpx.Limits(max_connections=num_uploads)

    async def send(client: httpx.AsyncClient, body: _Body) -> None:
        while True:
            headers = {"content-type": body[0], "accept": "image/jpeg"}
            response = await client.post("/v1/purify", content=body[1], headers=headers)
            statuses[response.status_code] += 1
            if not response.is_success:
                await asyncio.sleep(0.1)

    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:  # noqa: S113
        with contextlib.suppress(TimeoutError):
            # Then its clients leave, and what is still inside is dropped.
            async with asyncio.timeout(duration_s), asyncio.TaskGroup() as sending:
                for body, _ in zip(cycle(bodies), range(num_uploads), strict=False):
                    sending.create_task(send(client, body))
    return statuses
