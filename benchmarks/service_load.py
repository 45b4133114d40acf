"""Many clients at once with images of mixed sizes, beside the engine alone on the same trace."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from benchmarks.engine import load_warm_engine, time_pictures
from benchmarks.report import Figure, percentiles_ms
from benchmarks.scrape import scrape
from benchmarks.server import run_server
from benchmarks.trace import SIZES, SyntheticPicture, make_picture, mixed_trace

__all__ = ["measure_load"]

PROBE_PAUSE_S = 0.1


@dataclass(slots=True)
class _Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    probe_seconds: list[float] = field(default_factory=list)
    num_pixels: int = 0
    wall_s: float = 0.0


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
        tally = asyncio.run(_load(server.url, num_clients, duration_s))
        batches = _read_batches(server.url)
    engine = load_warm_engine(purifier, device, [make_picture(*size) for size in SIZES])
    engine_images, engine_pixels, engine_s = 0, 0, 0.0
    trace = mixed_trace()
    while engine_s < duration_s / 2:
        block = [next(trace) for _ in SIZES]
        engine_s += sum(time_pictures(engine, block))
        engine_images += len(block)
        engine_pixels += sum(picture.num_pixels for picture in block)
    alone = (engine_images / engine_s, engine_pixels / engine_s / 1e6)
    config = {"clients": num_clients, "seconds": duration_s, "sizes": SIZES}
    return list(_rows(tally, batches, alone, config)), engine.facts.device


def _rows(
    tally: _Tally,
    batches: dict[str, float],
    alone: tuple[float, float],
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
        baseline=alone[0],
        **percentiles_ms(tally.seconds),
    )
    megapixels_per_s = tally.num_pixels / tally.wall_s / 1e6
    yield Figure("megapixels_per_second", beside, megapixels_per_s, "MP/s", baseline=alone[1])
    yield Figure("mean_batch", config, batches["mean_batch"], "images")
    yield Figure("batches_across_sizes", config, batches["across_sizes"], "fraction")
    yield Figure("padding", config, batches["padding"], "fraction")
    yield Figure("answers_200", config, answered, "responses")
    yield Figure("answers_429", config, refused, "responses")
    yield Figure("errors_but_429", config, tally.statuses.total() - answered - refused, "responses")
    probes = percentiles_ms(tally.probe_seconds)
    yield Figure("healthz_under_load", config, probes["p99_ms"], "ms", **probes)


async def _load(url: str, num_clients: int, duration_s: float) -> _Tally:
    tally = _Tally()
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
    client: httpx.AsyncClient, trace: Iterator[SyntheticPicture], tally: _Tally, ends_s: float
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


async def _probe(client: httpx.AsyncClient, tally: _Tally) -> None:
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
