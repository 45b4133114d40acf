"""The engine alone, without a service around it: every way to run it, beside a baseline.

On a CPU the baseline is the eager engine; on a GPU it is diffusers in half precision, as it comes,
and the time is also told as a share of what the device could do (`benchmarks.roofline`).
"""

import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from benchmarks.modes import RANDOM_LATENT, EngineMode, Subject, load_network, make_timer
from benchmarks.report import Figure, percentiles_ms
from benchmarks.roofline import DeviceLimits, roofline_s, walk_layers
from benchmarks.trace import SyntheticPicture
from codefend.models.buckets import choose_bucket, crop_from_bucket, pad_to_bucket
from codefend.models.purifier.graph import PurifierGraph
from codefend.service.devices import has_accelerator, has_int8_products, has_openvino
from codefend.service.processes.child import Child
from codefend.service.purify.backends import load_engine
from codefend.service.purify.engine import Engine, EngineOptions
from codefend.service.settings import Settings

__all__ = ["load_warm_engine", "measure_engine", "time_pictures"]

WARM_UP_RUNS = 3  # a graph is captured when its shape is met again
START_TIMEOUT_S = 600.0
BATCH_TIMEOUT_S = 400.0

Batch = tuple[int, int]
"""Images, and their sides in pixels."""


@dataclass(frozen=True, slots=True)
class _Round:
    """Modes that are timed turn by turn on the same batches.

    Attributes:
        label: Begins the rows' names.
        network: As in `Subject`.
        modes: All of them.
        batches: In order.
        baseline: One of the modes.
        rarely: Modes that are timed on some of the batches alone, as they take long to begin.
    """

    label: str
    network: str
    modes: tuple[EngineMode, ...]
    batches: tuple[Batch, ...]
    baseline: EngineMode
    rarely: dict[EngineMode, tuple[Batch, ...]] = field(default_factory=dict)

    def modes_on(self, batch: Batch) -> list[EngineMode]:
        """The modes that are timed on a batch."""
        return [mode for mode in self.modes if batch in self.rarely.get(mode, self.batches)]


TARGETS = {
    "speed_up_1x256x256": ">= 3",
    "speed_up_32x256x256": ">= 1.3",
    "graphs_1x256x256_seconds": "<= 0.003",
    "graphs_32x256x256_of_roofline": ">= 0.4",
    "latent_speed_up_1x512x512": ">= 1.8",
    "latent_graphs_4x512x512_images_per_second": ">= 60",
}
"""What is asked of a GPU, by the row's name; the last of an H100."""
GPU_MODES = (
    EngineMode.STOCK_FLOAT32,
    EngineMode.STOCK_FLOAT16,
    EngineMode.EAGER,
    EngineMode.GRAPHS,
    EngineMode.COMPILED,
)


def _rounds(purifier: str, device: str) -> list[_Round]:
    if device.startswith("cuda") or (device == "auto" and has_accelerator()):
        pixel = _Round(
            "",
            purifier,
            GPU_MODES,
            ((1, 256), (4, 256), (8, 256), (32, 256), (1, 512), (8, 512)),
            EngineMode.STOCK_FLOAT16,
            rarely={EngineMode.COMPILED: ((1, 256), (32, 256))},
        )
        latent = _Round(
            "latent_",
            RANDOM_LATENT,
            GPU_MODES,
            ((1, 512), (4, 512)),
            EngineMode.STOCK_FLOAT16,
            rarely={EngineMode.COMPILED: ((1, 512),)},
        )
        return [pixel, latent]
    modes = [EngineMode.EAGER]
    if has_openvino():
        modes += (
            [EngineMode.OPENVINO, EngineMode.OPENVINO_INT8]
            if has_int8_products()
            else [EngineMode.OPENVINO]
        )
    return [_Round("", purifier, tuple(modes), ((1, 512), (8, 128), (1, 128)), EngineMode.EAGER)]


def load_warm_engine(purifier: str, device: str, pictures: Iterable[SyntheticPicture]) -> Engine:
    """Loads the engine that the service takes, by its settings; runs every given picture once."""
    settings = Settings(purifier=purifier, devices=(device,))
    engine = load_engine(EngineOptions.of(settings, device))
    time_pictures(engine, pictures)
    return engine


def time_pictures(engine: Engine, pictures: Iterable[SyntheticPicture]) -> list[float]:
    """Purifies and suspects pictures one at a time, each padded to its own bucket only.

    Returns:
        Seconds for each.
    """
    seconds = []
    for picture in pictures:
        started_s = time.perf_counter()
        bucket = choose_bucket(*picture.pixels.shape[:2])
        purified = engine.purify(pad_to_bucket(picture.pixels, bucket)[np.newaxis])[0]
        engine.suspect(picture.pixels, crop_from_bucket(purified, *picture.pixels.shape[:2]))
        seconds.append(time.perf_counter() - started_s)
    return seconds


def measure_engine(
    purifier: str,
    device: str,
    num_runs: int,
    most_pixels: int | None = None,
    *,
    with_compiled: bool = False,
) -> tuple[list[Figure], str]:
    """Measures every mode that runs on the device, turn by turn, each in a process of its own.

    On a GPU also those of a latent purifier in the size of Stable Diffusion 1.5.

    Args:
        purifier: Directory or hub id.
        device: As in CODEFEND_DEVICES.
        num_runs: Of each batch and mode.
        most_pixels: Of a batch; larger ones are left out.
        with_compiled: Also what torch.compile makes of it, which takes minutes to begin.

    Returns:
        The rows, and the device by its name.
    """
    rows: list[Figure] = []
    described = device
    for turns in _rounds(purifier, device):
        fitting = tuple(
            (num_images, side_px)
            for num_images, side_px in turns.batches
            if most_pixels is None or num_images * side_px**2 <= most_pixels
        )
        modes = tuple(
            mode for mode in turns.modes if with_compiled or mode is not EngineMode.COMPILED
        )
        measured = replace(turns, modes=modes, batches=fitting)
        found, described = _measure_round(measured, device, num_runs)
        rows += found
    return [_with_target(row) for row in rows], described


def _with_target(row: Figure) -> Figure:
    target = TARGETS.get(row.name)
    return row if target is None else replace(row, config=row.config | {"target": target})


def _measure_round(turns: _Round, device: str, num_runs: int) -> tuple[list[Figure], str]:
    with ExitStack() as ending:
        workers: dict[EngineMode, Child] = {}
        facts: dict[EngineMode, dict[str, Any]] = {}
        for mode in turns.modes:
            child = Child(mode, make_timer, Subject(mode, turns.network, device))
            child.launch()
            ending.callback(child.stop)
            facts[mode] = child.wait_until_ready(START_TIMEOUT_S)
            workers[mode] = child
        dtype = "float32" if facts[turns.baseline]["device"] == "cpu" else "float16"
        told = workers[turns.baseline].call({"limits_of": dtype}, b"", BATCH_TIMEOUT_S)[0]
        limits = DeviceLimits(**told)
        rows = list(_describe_limits(turns.label, limits, dtype))
        for batch in turns.batches:
            rows += _compare(turns, workers, batch, num_runs, limits)
        for mode, child in workers.items():
            rows += _describe(turns, mode, facts, child.call({}, b"", BATCH_TIMEOUT_S)[0])
    return rows, str(facts[turns.baseline]["device"])


def _compare(
    turns: _Round,
    workers: dict[EngineMode, Child],
    batch: Batch,
    num_runs: int,
    limits: DeviceLimits,
) -> Iterator[Figure]:
    num_images, side_px = batch
    modes = turns.modes_on(batch)
    wall: dict[EngineMode, list[float]] = {mode: [] for mode in modes}
    cpu: dict[EngineMode, list[float]] = {mode: [] for mode in modes}
    asked = {"images": num_images, "side_px": side_px}
    for run in range(WARM_UP_RUNS + num_runs):
        for mode in modes:
            told = workers[mode].call(asked, b"", BATCH_TIMEOUT_S)[0]
            if run >= WARM_UP_RUNS:
                wall[mode].append(told["wall_s"])
                cpu[mode].append(told["cpu_s"])
    config = {**asked, "runs": num_runs, "baseline": turns.baseline.value}
    size = f"{num_images}x{side_px}x{side_px}"
    for kind, times in (("processor_seconds", cpu), ("seconds", wall)):
        for mode, seconds in times.items():
            yield Figure(
                f"{turns.label}{mode}_{size}_{kind}",
                config,
                statistics.median(seconds),
                "s",
                baseline=statistics.median(times[turns.baseline]),
                **percentiles_ms(seconds),
            )
    medians = {mode: statistics.median(seconds) for mode, seconds in wall.items()}
    for mode, median_s in medians.items():
        per_s = num_images / median_s
        baseline = num_images / medians[turns.baseline]
        name = f"{turns.label}{mode}_{size}_images_per_second"
        yield Figure(name, config, per_s, "images/s", baseline=baseline)
    yield from _beside_the_roofline(turns, batch, medians, limits)
    if EngineMode.GRAPHS in medians:
        speed_up = medians[turns.baseline] / medians[EngineMode.GRAPHS]
        yield Figure(f"{turns.label}speed_up_{size}", config, speed_up, "times")


def _beside_the_roofline(
    turns: _Round, batch: Batch, medians: dict[EngineMode, float], limits: DeviceLimits
) -> Iterator[Figure]:
    """The bound of the batch, and the share of it that each mode of its precision reaches."""
    num_images, side_px = batch
    meta = torch.device("meta")
    on_gpu = turns.baseline is not EngineMode.EAGER
    dtype = torch.float16 if on_gpu else torch.float32
    graph = PurifierGraph(load_network(turns.network, meta, dtype)).to(meta)
    pixels = torch.zeros((num_images, side_px, side_px, 3), dtype=torch.uint8, device=meta)
    noise = torch.zeros(graph.noise_shape(num_images, side_px, side_px), dtype=dtype, device=meta)
    layers = walk_layers(graph, pixels, noise)
    bounds = {fused: roofline_s(layers, limits, fused=fused) for fused in (True, False)}
    size = f"{num_images}x{side_px}x{side_px}"
    config = {
        "images": num_images,
        "side_px": side_px,
        "flops": sum(layer.flops for layer in layers),
        "op_by_op_s": bounds[False],
    }
    yield Figure(f"{turns.label}roofline_{size}_seconds", config, bounds[True], "s")
    for mode, median_s in medians.items():
        if mode not in {
            EngineMode.STOCK_FLOAT32,
            EngineMode.OPENVINO_INT8,
        }:
            share = bounds[True] / median_s
            yield Figure(f"{turns.label}{mode}_{size}_of_roofline", config, share, "fraction")


def _describe_limits(label: str, limits: DeviceLimits, dtype: str) -> Iterator[Figure]:
    config = {"dtype": dtype, "flops": "a product of square matrices", "bytes": "a copy"}
    yield Figure(f"{label}peak", config, limits.flops_per_s / 1e12, "TFLOP/s")
    yield Figure(f"{label}bandwidth", config, limits.bytes_per_s / 1e9, "GB/s")


def _describe(
    turns: _Round, mode: EngineMode, facts: dict[EngineMode, dict[str, Any]], told: dict[str, Any]
) -> Iterator[Figure]:
    beside = {"baseline": turns.baseline.value}
    label = f"{turns.label}{mode}"
    load_s = facts[mode]["load_s"]
    baseline_s = facts[turns.baseline]["load_s"]
    yield Figure(f"{label}_load_seconds", beside, load_s, "s", baseline=baseline_s)
    yield Figure(f"{label}_peak_memory", {}, told["peak_mib"], "MiB")
    if "gpu_mib" in told:
        yield Figure(f"{label}_gpu_memory", {}, told["gpu_mib"], "MiB")
