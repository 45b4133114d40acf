"""The engine alone, without a service around it: every backend, and the baseline of the others."""

import resource
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.report import Figure, percentiles_ms
from benchmarks.trace import SyntheticPicture, make_picture
from codefend.models.buckets import choose_bucket, pad_to_bucket
from codefend.service.devices import Backend
from codefend.service.processes.child import Ask, Child, Handler, Message, bound_spinning
from codefend.service.purify.backends import load_engine
from codefend.service.purify.engine import Engine, EngineOptions

__all__ = ["load_warm_engine", "measure_engine", "time_pictures"]

# Images of a batch, and their sides.
BATCHES = ((1, 512), (8, 128), (1, 128))
WARM_UP_RUNS = 2
START_TIMEOUT_S = 600.0
BATCH_TIMEOUT_S = 120.0


def load_warm_engine(purifier: str, device: str, pictures: Iterable[SyntheticPicture]) -> Engine:
    """Loads the engine that the service takes, and runs every given picture once."""
    engine = load_engine(EngineOptions(purifier, device))
    time_pictures(engine, pictures)
    return engine


def time_pictures(engine: Engine, pictures: Iterable[SyntheticPicture]) -> list[float]:
    """Purifies pictures one at a time, each padded to its own bucket only.

    Returns:
        Seconds for each.
    """
    seconds = []
    for picture in pictures:
        started_s = time.perf_counter()
        bucket = choose_bucket(*picture.pixels.shape[:2])
        engine.purify(pad_to_bucket(picture.pixels, bucket)[np.newaxis])
        seconds.append(time.perf_counter() - started_s)
    return seconds


def measure_engine(purifier: str, device: str, num_runs: int) -> tuple[list[Figure], str]:
    """Measures every backend that runs on the device, beside the eager one, turn by turn.

    Each is in a process of its own, as the service's worker is.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        num_runs: Of each batch and backend.

    Returns:
        The rows, and the device as the engine names it.
    """
    backends = [Backend.EAGER, Backend.OPENVINO] if device in {"auto", "cpu"} else [Backend.EAGER]
    with ExitStack() as ending:
        workers = {}
        facts = {}
        for backend in backends:
            child = Child(backend, _make_timer, EngineOptions(purifier, device, backend=backend))
            child.launch()
            ending.callback(child.stop)
            facts[backend] = child.wait_until_ready(START_TIMEOUT_S)
            workers[backend] = child
        rows = [row for batch in BATCHES for row in _compare(workers, batch, num_runs)]
        for backend, child in workers.items():
            rows += _describe(backend, facts, child.call({}, b"", BATCH_TIMEOUT_S)[0])
    return rows, facts[Backend.EAGER]["device"]


def _compare(
    workers: dict[Backend, Child], batch: tuple[int, int], num_runs: int
) -> Iterator[Figure]:
    num_images, side_px = batch
    wall: dict[Backend, list[float]] = {backend: [] for backend in workers}
    cpu: dict[Backend, list[float]] = {backend: [] for backend in workers}
    for run in range(WARM_UP_RUNS + num_runs):
        for backend, child in workers.items():
            told = child.call({"images": num_images, "side_px": side_px}, b"", BATCH_TIMEOUT_S)[0]
            if run >= WARM_UP_RUNS:
                wall[backend].append(told["wall_s"])
                cpu[backend].append(told["cpu_s"])
    config = {"images": num_images, "side_px": side_px, "runs": num_runs, "baseline": "eager"}
    for kind, times in (("processor_seconds", cpu), ("seconds", wall)):
        for backend, seconds in times.items():
            yield Figure(
                f"{backend}_{num_images}x{side_px}x{side_px}_{kind}",
                config,
                statistics.median(seconds),
                "s",
                baseline=statistics.median(times[Backend.EAGER]),
                **percentiles_ms(seconds),
            )


def _describe(
    backend: Backend, facts: dict[Backend, dict[str, Any]], told: dict[str, Any]
) -> Iterator[Figure]:
    beside = {"baseline": "eager"}
    started = facts[backend]["load_s"]
    yield Figure(
        f"{backend}_load_seconds", beside, started, "s", baseline=facts[Backend.EAGER]["load_s"]
    )
    yield Figure(f"{backend}_peak_memory", {}, told["peak_mib"], "MiB")


def _make_timer(options: EngineOptions) -> tuple[Handler, dict[str, Any]]:
    bound_spinning()
    started_s = time.perf_counter()
    engine = load_engine(options)
    load_s = time.perf_counter() - started_s

    def run(meta: dict[str, Any], _: bytes, __: Ask) -> Message:
        if not meta:
            return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}, b""
        pixels = make_picture(meta["side_px"], meta["side_px"]).pixels
        batch = np.stack([pixels] * meta["images"])
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        engine.purify(batch)
        return {
            "wall_s": time.perf_counter() - wall_s,
            "cpu_s": time.process_time() - cpu_s,
        }, b""

    return run, {"device": engine.facts.device, "load_s": load_s}
