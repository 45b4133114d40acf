"""The engine that runs a purifier on a CPU with OpenVINO; imported by workers, not by the service.

Networks are converted once. From then on a worker needs neither torch nor diffusers: it starts
within a second, in a fraction of the memory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codefend.models.buckets import BUCKET_STEP_PX
from codefend.models.converted import Compiled, Converted, converted, load_converted
from codefend.models.packed import unpacked
from codefend.models.purifier.ranges import Ranges, read_ranges
from codefend.models.purifier.strengths import Strength
from codefend.service.devices import CpuDtype, has_int8_products
from codefend.service.purify.engine import (
    CalibratedDetector,
    DeviceOutOfMemory,
    EngineOptions,
    NetworkEngine,
)
from codefend.service.stages import EngineFacts

__all__ = ["OpenVinoRunner", "load_engine"]

logger = logging.getLogger(__name__)

# Images, height, width: no two alike, and none that could be taken for a constant.
EXAMPLE_SIZE = (2, 2 * BUCKET_STEP_PX, BUCKET_STEP_PX)


class OpenVinoRunner:
    """Runs a purifier on the processors of this machine."""

    def __init__(self, purifier: Converted, num_threads: int | None) -> None:
        """Compiles the network.

        Args:
            purifier: A `PurifierGraph`; its facts are what `_convert_purifier` says.
            num_threads: Of one batch; None for all processors.
        """
        self._own_levels = tuple(purifier.facts["levels"][Strength.STANDARD])
        self._noise_layout = purifier.facts["noise_layout"]
        self._purify = Compiled(purifier.network, num_threads)

    def purify(
        self, images: NDArray[np.uint8], seed: int, levels: Sequence[float] | None = None
    ) -> tuple[NDArray[np.uint8], float]:
        """Runs the purifier on one batch, as `Runner` says."""
        generator = np.random.Generator(np.random.SFC64(seed))
        each = np.array(self._own_levels if levels is None else levels, np.float32)
        try:
            noise = generator.standard_normal(self._noise_shape(images), np.float32)
            purified, total = self._purify(images, noise, each)
        except MemoryError as error:
            raise DeviceOutOfMemory(str(error)) from None
        return purified, float(total)

    def _noise_shape(self, images: NDArray[np.uint8]) -> tuple[int, ...]:
        num_images, height, width, _ = images.shape
        channels, factor = self._noise_layout
        size = (channels, height // factor, width // factor)
        return (len(self._own_levels), num_images, *size)


def load_engine(options: EngineOptions) -> NetworkEngine:
    """Loads the networks that the options name, converted at the first time.

    Raises:
        OSError: There is no such pipeline.
        ValueError: It is of no known kind, its adapters do not fit, the detector is not
            calibrated, or 8-bit integers are asked for and no ranges were measured.
        RuntimeError: OpenVINO cannot run it.
    """
    folder = _whole_folder(options)
    ranges = _ranges(options.cpu_dtype, folder)
    dtype = CpuDtype.FLOAT32 if ranges is None else CpuDtype.INT8
    purifier = load_converted(folder, lambda: _convert_purifier(options, ranges), dtype)
    described = {name: fact for name, fact in purifier.facts.items() if name != "noise_layout"}
    return NetworkEngine(
        OpenVinoRunner(purifier, options.cpu_threads),
        EngineFacts(**described, device="cpu", backend="openvino", details={"dtype": dtype.value}),
        None if options.detector is None else _load_detector(options.detector, options.cpu_threads),
    )


def _ranges(dtype: CpuDtype, folder: Path | None) -> Ranges | None:
    """What convolutions read, where they are to run in 8-bit integers; else None."""
    is_asked = dtype is CpuDtype.INT8
    if not is_asked and (dtype is CpuDtype.FLOAT32 or not has_int8_products()):
        return None
    try:
        ranges = None if folder is None else read_ranges(folder)
    except ValueError as error:
        if is_asked:
            raise
        logger.warning("the purifier runs in single precision: %s", error)
        return None
    if ranges is None and is_asked:
        msg = (
            "CODEFEND_CPU_DTYPE=int8 needs the ranges of a pixel purifier: measure them with "
            "codefend-lab train ranges DIRECTORY, or set float32"
        )
        raise ValueError(msg)
    return ranges


def _load_detector(source: str, num_threads: int | None) -> CalibratedDetector:
    detector = load_converted(source, lambda: _convert_detector(source))
    compiled = Compiled(detector.network, num_threads)

    def score(upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> NDArray[np.floating]:
        scores: NDArray[np.floating] = compiled(upload[np.newaxis], purified[np.newaxis])[0]
        return scores

    return CalibratedDetector(score, detector.facts["clean_quantiles"])


def _whole_folder(options: EngineOptions) -> Path | None:
    """The folder that holds all of the purifier; None where adapters, or a base, lie elsewhere."""
    folder = Path(unpacked(options.purifier))
    is_whole = options.adapters is None and (folder / "model_index.json").is_file()
    return folder if is_whole else None


def _convert_purifier(options: EngineOptions, ranges: Ranges | None) -> Converted:
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from codefend.models.purifier.eight_bit import eight_bit
    from codefend.models.purifier.folded import folded
    from codefend.models.purifier.graph import PurifierGraph
    from codefend.models.purifier.loading import load_purifier

    disable_progress_bar()
    purifier = load_purifier(options.purifier, options.adapters)
    if BUCKET_STEP_PX % purifier.padding_multiple:
        msg = f"{options.purifier} needs sides of multiples of {purifier.padding_multiple} pixels"
        raise ValueError(msg)
    graph = PurifierGraph(folded(purifier) if ranges is None else eight_bit(purifier, ranges))
    noise = graph.draw_noise(*EXAMPLE_SIZE, torch.Generator())
    pixels = torch.zeros((*EXAMPLE_SIZE, 3), dtype=torch.uint8)
    levels = torch.full((len(noise),), 0.1)
    facts = graph.describe() | {"noise_layout": purifier.noise_layout}
    return converted(graph, (pixels, noise, levels), facts)


def _convert_detector(source: str) -> Converted:
    import torch

    from codefend.models.detector.network import DetectorGraph, SuspicionDetector

    detector = SuspicionDetector.from_pretrained(source, torch_dtype=torch.float32)
    uploads = torch.zeros((*EXAMPLE_SIZE, 3), dtype=torch.uint8)
    facts = {"clean_quantiles": list(detector.config.clean_quantiles)}
    return converted(DetectorGraph(detector), (uploads, uploads), facts)
