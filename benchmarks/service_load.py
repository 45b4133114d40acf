"""Many clients at once with images of mixed sizes, beside the engine alone on the same trace.

How many images a second depends on what else the processors do; how many in a second of a processor
says what the service costs beside its engine.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from benchmarks.engine import load_warm_engine, time_pictures
from benchmarks.family import measure_family_cpu_s
from benchmarks.report import Figure, percentiles_ms
from benchmarks.scrape import scrape
from benchmarks.server import RunningServer, run_server
from benchmarks.trace import SIZES, SyntheticPicture, make_picture, mixed_trace

__all__ = ["Tally", "load", "measure_load"]

PROBE_PAUSE_S = 0.1


@dataclass(slots=True)
class Tally:
    """What the clients saw.

    Attributes:
        statuses: Answers by their status.
        seconds: Of each image that was answered.
        probe_seconds: Of each look at `/healthz` meanwhile.
        num_pixels: Of all images that were answered.
        wall_s: From the first request to the last answer.
        service_cpu_s: What the service's processes took of the processors.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    probe_seconds: list[float] = field(default_factory=list)
    num_pixels: int = 0
    wall_s: float = 0.0
    service_cpu_s: float = 0.0


def measure_load(
    purifier: str, device: str, num_clients: int, duration_s: float
) -> tuple[list[Figure], str]:
    """Loads a real service, then runs the engine alone for as long.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        num_clients: Each sends its next image when it has its answer; a 429 makes it wait.
        duration_s: How long they send. What is under way then is still answered, and counted.

    Returns:
        The rows, and the device as the engine names it.
    """
    with run_server(purifier=purifier, devices=device) as server:
        tally = load(server, num_clients, duration_s)
        batches = _read_batches(server.url)
    alone, measured_on = _measure_alone(purifier, device, duration_s / 2)
    config = {"clients": num_clients, "seconds": duration_s, "sizes": SIZES}
    return list(_rows(tally, batches, alone, config)), measured_on


@dataclass(slots=True)
class _Alone:
    """What the engine did, one image at a time, with nothing around it."""

    num_images: int = 0
    num_pixels: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def _measure_alone(purifier: str, device: str, duration_s: float) -> tuple[_Alone, str]:
    """Runs the engine on the trace, and says what it ran on."""
    engine = load_warm_engine(purifier, device, [make_picture(*size) for size in SIZES])
    alone = _Alone()
    trace = mixed_trace()
    while alone.wall_s < duration_s:
        block = [next(trace) for _ in SIZES]
        before_s = time.process_time()
        alone.wall_s += sum(time_pictures(engine, block))
        alone.cpu_s += time.process_time() - before_s
        alone.num_images += len(block)
        alone.num_pixels += sum(picture.num_pixels for picture in block)
    return alone, engine.facts.device


def _rows(
    tally: Tally,
    batches: dict[str, float],
    alone: _Alone,
    config: dict[str, object],
) -> Iterator[Figure]:
    beside = {**config, "baseline": "engine alone, one image at a time, same trace"}
    answered = tally.statuses[200]
    refused = tally.statuses[429]
    yield Figure(
        "images_per_second",
        beside,
        answered / tally.wall_s,
        "images/s",
        baseline=alone.num_images / alone.wall_s,
        **percentiles_ms(tally.seconds),
    )
    megapixels_per_s = tally.num_pixels / tally.wall_s / 1e6
    alone_per_s = alone.num_pixels / alone.wall_s / 1e6
    yield Figure("megapixels_per_second", beside, megapixels_per_s, "MP/s", baseline=alone_per_s)
    yield Figure(
        "megapixels_per_processor_second",
        beside | {"at_least": 0.9},
        tally.num_pixels / tally.service_cpu_s / 1e6,
        "MP/s",
        baseline=alone.num_pixels / alone.cpu_s / 1e6,
    )
    yield Figure("mean_batch", config, batches["mean_batch"], "images")
    yield Figure("batches_across_sizes", config, batches["across_sizes"], "fraction")
    yield Figure("padding", config, batches["padding"], "fraction")
    yield Figure("answers_200", config, answered, "responses")
    yield Figure("answers_429", config, refused, "responses")
    yield Figure("errors_but_429", config, tally.statuses.total() - answered - refused, "responses")
    probes = percentiles_ms(tally.probe_seconds)
    yield Figure("healthz_under_load", config, probes["p99_ms"], "ms", **probes)


def load(server: RunningServer, num_clients: int, duration_s: float) -> Tally:
    """Clients that each send their next image when they have their answer.

    Args:
        server: What they ask.
        num_clients: At once.
        duration_s: How long they send; what is under way then is still answered.
    """
    before_s = measure_family_cpu_s(server.pid)
    tally = asyncio.run(_load(server.url, num_clients, duration_s))
    tally.service_cpu_s = measure_family_cpu_s(server.pid) - before_s
    return tally


async def _load(url: str, num_clients: int, duration_s: float) -> Tally:
    tally = Tally()
    trace = mixed_trace()
    limits = httpx.Limits(max_connections=num_clients + 1)
    started_s = time.perf_counter()
    ends_s = started_s + duration_s
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        probe = asyncio.create_task(_probe(client, tally))
        await asyncio.gather(
            *(_send_until(client, trace, tally, ends_s) for _ in range(num_clients))
        )
        tally.wall_s = time.perf_counter() - started_s
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
    return tally


async def _send_until(
    client: httpx.AsyncClient, trace: Iterator[SyntheticPicture], tally: Tally, ends_s: float
) -> None:
    headers = {"content-type": "image/jpeg", "accept": "image/png"}
    while time.perf_counter() < ends_s:
        picture = next(trace)
        started_s = time.perf_counter()
        response = await client.post("/v1/purify", content=picture.jpeg, headers=headers)
        tally.statuses[response.status_code] += 1
        if response.is_success:
            tally.seconds.append(time.perf_counter() - started_s)
            tally.num_pixels += picture.num_pixels
        else:
            pause_s = float(response.headers.get("retry-after", 1))
            await asyncio.sleep(max(0.0, min(pause_s, ends_s - time.perf_counter())))


async def _probe(client: httpx.AsyncClient, tally: Tally) -> None:
    while True:
        started_s = time.perf_counter()
        (await client.get("/healthz")).raise_for_status()
        tally.probe_seconds.append(time.perf_counter() - started_s)
        await asyncio.sleep(PROBE_PAUSE_S)


def _read_batches(url: str) -> dict[str, float]:
    """Reads from the service's own metrics how its batches were made."""
    seen = scrape(url)
    num_batches = max(1.0, seen.value("codefend_batch_size_count"))
    of_one_size = seen.value("codefend_batch_distinct_sizes_bucket", le="1.0")
    return {
        "mean_batch": seen.mean("codefend_batch_size"),
        "across_sizes": 1 - of_one_size / num_batches,
        "padding": seen.mean("codefend_batch_padding_ratio"),
    }
