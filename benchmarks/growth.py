"""How speed grows: with the pixels of an image, the images of a batch, and the clients at once.

Where a picture costs what its pixels cost, and a batch what its pictures cost, megapixels in a
second of a processor are the same for all.
"""

import statistics
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.engine import load_warm_engine
from benchmarks.report import Figure
from benchmarks.server import run_server
from benchmarks.service_load import load
from benchmarks.trace import make_picture
from codefend.service.purify.engine import Engine

__all__ = ["measure_growth"]

SIDES_PX = (128, 256, 512, 768, 1024, 1536)
BATCH_SIDE_PX = 128
BATCHES = (1, 2, 4, 8)
NUM_CLIENTS = (1, 4, 16, 64)
# What the others are compared with: neither smallest nor largest.
REFERENCE_SIDE_PX = 512
NUM_RUNS = 5


def measure_growth(purifier: str, device: str, duration_s: float) -> tuple[list[Figure], str]:
    """Measures the engine at every size and batch, then the service at every number of clients.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        duration_s: How long each number of clients send.

    Returns:
        The rows, and the device as the engine names it.
    """
    engine = load_warm_engine(purifier, device, [make_picture(128, 128)])
    rows = [*_over_sizes(engine), *_over_batches(engine)]
    return [*rows, *_over_clients(purifier, device, duration_s)], engine.facts.device


def _over_sizes(engine: Engine) -> Iterator[Figure]:
    costs = {side_px: _seconds(engine, 1, side_px) for side_px in SIDES_PX}
    reference = _megapixels(1, REFERENCE_SIDE_PX) / costs[REFERENCE_SIDE_PX][1]
    config = {"runs": NUM_RUNS, "baseline": f"{REFERENCE_SIDE_PX}x{REFERENCE_SIDE_PX}"}
    for side_px, (wall_s, cpu_s) in costs.items():
        size = f"{side_px}x{side_px}"
        yield Figure(f"size_{size}_images_per_second", config, 1 / wall_s, "images/s")
        yield Figure(
            f"size_{size}_per_processor_second",
            config,
            _megapixels(1, side_px) / cpu_s,
            "MP/s",
            baseline=reference,
        )


def _over_batches(engine: Engine) -> Iterator[Figure]:
    costs = {num: _seconds(engine, num, BATCH_SIDE_PX) for num in BATCHES}
    reference = _megapixels(1, BATCH_SIDE_PX) / costs[1][1]
    config = {"runs": NUM_RUNS, "side_px": BATCH_SIDE_PX, "baseline": "one image"}
    for num, (wall_s, cpu_s) in costs.items():
        yield Figure(f"batch_{num}_images_per_second", config, num / wall_s, "images/s")
        yield Figure(
            f"batch_{num}_per_processor_second",
            config,
            _megapixels(num, BATCH_SIDE_PX) / cpu_s,
            "MP/s",
            baseline=reference,
        )


def _over_clients(purifier: str, device: str, duration_s: float) -> Iterator[Figure]:
    with run_server(purifier=purifier, devices=device) as server:
        load(server, 1, duration_s / 4)  # until every size was met
        tallies = {num: load(server, num, duration_s) for num in NUM_CLIENTS}
    alone = tallies[1].num_pixels / tallies[1].service_cpu_s / 1e6
    for num, tally in tallies.items():
        config = {"clients": num, "seconds": duration_s, "baseline": "one client"}
        answered = tally.statuses[200]
        yield Figure(
            f"clients_{num}_images_per_second", config, answered / tally.wall_s, "images/s"
        )
        yield Figure(
            f"clients_{num}_per_processor_second",
            config,
            tally.num_pixels / tally.service_cpu_s / 1e6,
            "MP/s",
            baseline=alone,
        )


def _seconds(engine: Engine, num_images: int, side_px: int) -> tuple[float, float]:
    """Wall and processor seconds of one batch, medians."""
    batch = np.stack([make_picture(side_px, side_px).pixels] * num_images)
    engine.purify(batch)
    walls_s, cpus_s = [], []
    for _ in range(NUM_RUNS):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        engine.purify(batch)
        walls_s.append(time.perf_counter() - wall_s)
        cpus_s.append(time.process_time() - cpu_s)
    return statistics.median(walls_s), statistics.median(cpus_s)


def _megapixels(num_images: int, side_px: int) -> float:
    return num_images * side_px**2 / 1e6
