"""One image at a time through the whole of /v1/purify, beside the engine alone."""

import statistics
import time

import httpx

from benchmarks.engine import load_warm_engine, time_pictures
from benchmarks.report import Figure, percentiles_ms
from benchmarks.server import run_server
from benchmarks.trace import SyntheticPicture, make_picture

__all__ = ["measure_latency"]

SIZES_PX = (128, 512)
WARM_UP_REQUESTS = 2


def measure_latency(purifier: str, device: str, num_requests: int) -> tuple[list[Figure], str]:
    """Measures the time from the first byte sent to the last byte received.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        num_requests: For each size.

    Returns:
        The rows, and the device as the engine names it.
    """
    pictures = [make_picture(side_px, side_px) for side_px in SIZES_PX]
    running = run_server(purifier=purifier, devices=device)
    with running as server, httpx.Client(timeout=300) as client:
        whole = [_time_requests(client, server.url, picture, num_requests) for picture in pictures]
    engine = load_warm_engine(purifier, device, pictures)
    alone = [time_pictures(engine, [picture] * num_requests) for picture in pictures]
    rows = [
        Figure(
            name=f"purify_{side_px}x{side_px}_seconds",
            config={"requests": num_requests, "concurrency": 1, "baseline": "engine alone"},
            value=statistics.median(through),
            unit="s",
            baseline=statistics.median(bare),
            **percentiles_ms(through),
        )
        for side_px, through, bare in zip(SIZES_PX, whole, alone, strict=True)
    ]
    return rows, engine.facts.device


def _time_requests(
    client: httpx.Client, url: str, picture: SyntheticPicture, num_requests: int
) -> list[float]:
    seconds = []
    for _ in range(WARM_UP_REQUESTS + num_requests):
        started_s = time.perf_counter()
        response = client.post(
            f"{url}/v1/purify", content=picture.jpeg, headers={"content-type": "image/jpeg"}
        )
        response.raise_for_status()
        seconds.append(time.perf_counter() - started_s)
    return seconds[WARM_UP_REQUESTS:]
