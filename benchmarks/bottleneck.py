"""What limits the service: many clients with pictures of one size, beside its parts alone.

The service is measured as it is, and once more with an engine that gives every image back: what is
left is what one API process and its codecs can do. The engine is measured without a service.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.family import measure_family_cpu_s, measure_own_cpu_s
from benchmarks.identity_engine import IMPORT_PATH
from benchmarks.lean_client import LeanConnections, write_request
from benchmarks.report import Figure, percentiles_ms
from benchmarks.server import RunningServer, run_server
from benchmarks.trace import SyntheticPicture, make_picture
from codefend.service.purify.backends import load_engine
from codefend.service.purify.engine import Engine, EngineOptions
from codefend.service.settings import Settings

__all__ = ["Busy", "measure_bottleneck", "name_bottleneck"]

WARM_UP_BATCHES = 3
TARGET = ">= 0.7 of the baseline, on a GPU"


@dataclass(frozen=True, slots=True)
class Busy:
    """How much of what it may have each part used: 1 is all of it.

    Attributes:
        api: The API process, of one processor.
        clients: The sender, of one processor.
        codecs: Decoding and encoding processes, of all other processors.
    """

    api: float
    clients: float
    codecs: float


@dataclass(slots=True)
class _Seen:
    """What the clients of one service saw."""

    seconds: list[float] = field(default_factory=list)
    num_refused: int = 0
    images_per_s: float = 0.0
    busy: Busy = Busy(0, 0, 0)


def measure_bottleneck(
    purifier: str, device: str, num_clients: int, duration_s: float, side_px: int
) -> tuple[list[Figure], str]:
    """Measures service, service without its engine, and engine without its service.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        num_clients: Each sends its next image when it has its answer.
        duration_s: Of each of the three.
        side_px: Of the pictures.

    Returns:
        The rows, and the device as the engine names it.
    """
    picture = make_picture(side_px, side_px)
    # Two workers of one GPU: one copies while the other computes.
    whole = {}
    for num_workers in (1, 2) if device.startswith("cuda") else (1,):
        devices = ",".join([device] * num_workers)
        with run_server(purifier=purifier, devices=devices) as server:
            whole[num_workers] = uvloop.run(_load(server, picture, num_clients, duration_s))
    with run_server(engine=IMPORT_PATH, detector="none") as server:
        without_engine = uvloop.run(_load(server, picture, num_clients, duration_s))
    engine_per_s, batch_s, described = _measure_alone(purifier, device, picture, duration_s)
    config: dict[str, Any] = {"clients": num_clients, "seconds": duration_s, "side_px": side_px}
    found = name_bottleneck(engine_per_s, without_engine.images_per_s, without_engine.busy)
    least = min(engine_per_s, without_engine.images_per_s)
    rows = []
    for num_workers, seen in whole.items():
        name = "service" if num_workers == 1 else f"service_{num_workers}_workers"
        limited = config | {"baseline": "the lower of its parts", "target": TARGET}
        rows.append(
            Figure(
                f"{name}_images_per_second",
                limited | {"workers": num_workers, "limit": found},
                seen.images_per_s,
                "images/s",
                baseline=least,
                **percentiles_ms(seen.seconds),
            )
        )
        rows += _busy_rows(name, config, seen)
    rows += [
        Figure("engine_alone", config, engine_per_s, "images/s", **percentiles_ms(batch_s)),
        Figure(
            "without_engine",
            config,
            without_engine.images_per_s,
            "images/s",
            **percentiles_ms(without_engine.seconds),
        ),
        *_busy_rows("without_engine", config, without_engine),
    ]
    return rows, described


def name_bottleneck(engine_per_s: float, without_engine_per_s: float, busy: Busy) -> str:
    """The part that limits the service.

    Args:
        engine_per_s: Images a second of the engine alone.
        without_engine_per_s: Of the service whose engine costs nothing.
        busy: Of that service.
    """
    if engine_per_s <= without_engine_per_s:
        return "engine"
    shares = {"API process": busy.api, "clients": busy.clients, "codecs": busy.codecs}
    return max(shares, key=lambda part: shares[part])


def _busy_rows(name: str, config: dict[str, Any], seen: _Seen) -> Iterator[Figure]:
    yield Figure(f"{name}_api_process_busy", config, seen.busy.api, "fraction")
    yield Figure(f"{name}_clients_busy", config, seen.busy.clients, "fraction")
    yield Figure(f"{name}_others_busy", config, seen.busy.codecs, "fraction")
    yield Figure(f"{name}_refused", config, seen.num_refused, "responses")


async def _load(
    server: RunningServer, picture: SyntheticPicture, num_clients: int, duration_s: float
) -> _Seen:
    seen = _Seen()
    connections = LeanConnections(server.url)
    headers = {"content-type": "image/jpeg"}
    request = write_request(server.url, "/v1/purify", picture.jpeg, headers)
    before = _cpu_s(server)
    started_s = time.perf_counter()
    ends_s = started_s + duration_s
    await asyncio.gather(
        *(_send_until(connections, request, ends_s, seen) for _ in range(num_clients))
    )
    wall_s = time.perf_counter() - started_s
    api_s, clients_s, others_s = (b - a for a, b in zip(before, _cpu_s(server), strict=True))
    seen.images_per_s = len(seen.seconds) / wall_s
    others = max(1, (os.cpu_count() or 1) - 2)
    seen.busy = Busy(api_s / wall_s, clients_s / wall_s, others_s / wall_s / others)
    connections.close()
    return seen


async def _send_until(
    connections: LeanConnections, request: bytes, ends_s: float, seen: _Seen
) -> None:
    while time.perf_counter() < ends_s:
        started_s = time.perf_counter()
        reply = await connections.exchange(request)
        if reply.status == 200:
            seen.seconds.append(time.perf_counter() - started_s)
        elif reply.status == 429:
            seen.num_refused += 1
            await asyncio.sleep(min(float(reply.retry_after or 1), ends_s - time.perf_counter()))
        else:
            msg = f"the service answered {reply.status}"
            raise RuntimeError(msg)


def _cpu_s(server: RunningServer) -> tuple[float, float, float]:
    """Processor seconds of the API process, of this one, and of the API process's children."""
    own_s = measure_own_cpu_s(server.pid)
    return own_s, time.process_time(), measure_family_cpu_s(server.pid) - own_s


def _measure_alone(
    purifier: str, device: str, picture: SyntheticPicture, duration_s: float
) -> tuple[float, list[float], str]:
    """Full batches, each image's suspicion included: images a second, seconds of each, device."""
    settings = Settings(purifier=purifier)
    engine = load_engine(EngineOptions.of(settings, device))
    batch = np.stack([picture.pixels] * settings.max_batch)
    for _ in range(WARM_UP_BATCHES):
        _run_batch(engine, batch)
    seconds: list[float] = []
    ends_s = time.perf_counter() + duration_s
    while not seconds or time.perf_counter() < ends_s:
        seconds.append(_run_batch(engine, batch))
    return len(batch) / statistics.fmean(seconds), seconds, engine.facts.device


def _run_batch(engine: Engine, batch: NDArray[np.uint8]) -> float:
    started_s = time.perf_counter()
    for upload, pixels in zip(batch, engine.purify(batch), strict=True):
        engine.suspect(upload, pixels)
    return time.perf_counter() - started_s
