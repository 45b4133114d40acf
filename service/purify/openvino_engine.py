"""The engine that runs a purifier on a CPU with OpenVINO; imported by workers, not by the service.

Networks are converted once. From then on a worker needs neither torch nor diffusers: it starts
within a second, in a fraction of the memory.
"""

from __future__ import annotations

import math
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codefend.models.buckets import BUCKET_STEP_PX
from codefend.models.converted import Compiled, Converted, converted, load_converted
from codefend.models.detector.calibration import suspicions_of
from codefend.models.packed import unpacked
from codefend.service.purify.engine import DeviceOutOfMemory, EngineOptions
from codefend.service.stages import EngineFacts

__all__ = ["OpenVinoEngine", "load_engine"]

SEED_BITS = 128
# Images, height, width: no two alike, and none that could be taken for a constant.
EXAMPLE_SIZE = (2, 2 * BUCKET_STEP_PX, BUCKET_STEP_PX)


class OpenVinoEngine:
    """Runs one purifier, and one detector, on the processors of this machine."""

    def __init__(
        self, purifier: Converted, detector: Converted | None, num_threads: int | None
    ) -> None:
        """Compiles the networks.

        Args:
            purifier: A `PurifierGraph`; its facts are what `_convert_purifier` says.
            detector: A `DetectorGraph`; None for no suspicion.
            num_threads: Of one batch; None for all processors.
        """
        self._facts = purifier.facts
        self._purifier = Compiled(purifier.network, num_threads)
        self._detector = None if detector is None else Compiled(detector.network, num_threads)
        self._clean_quantiles = None if detector is None else detector.facts["clean_quantiles"]

    @property
    def facts(self) -> EngineFacts:
        """What it is."""
        return EngineFacts(
            name=self._facts["name"],
            version=self._facts["version"],
            steps=self._facts["steps"],
            noise_level=self._facts["noise_level"],
            device="cpu",
            backend="openvino",
        )

    def purify(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Purifies one batch, with fresh noise for every image.

        Args:
            images: (B, H, W, 3) uint8 RGB.

        Returns:
            The same shape and type.

        Raises:
            DeviceOutOfMemory: There is too little memory for so large a batch.
            ArithmeticError: What came out is no picture.
        """
        # Nothing that an attacker could replay: each batch takes its seed from the system.
        generator = np.random.Generator(np.random.SFC64(secrets.randbits(SEED_BITS)))
        try:
            noise = generator.standard_normal(self._noise_shape(images), np.float32)
            purified, total = self._purifier(images, noise)
        except MemoryError as error:
            raise DeviceOutOfMemory(str(error)) from None
        if not math.isfinite(total):
            msg = "the purifier gave values that are no numbers"
            raise ArithmeticError(msg)
        picture: NDArray[np.uint8] = purified
        return picture

    def suspect(self, upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> float | None:
        """How much an upload looks attacked, by what its purification took out.

        Args:
            upload: (H, W, 3) uint8 RGB.
            purified: The same, purified.

        Returns:
            Suspicion in [0, 1], by the detector's calibration; None if there is no detector.
        """
        if self._detector is None or self._clean_quantiles is None:
            return None
        (scores,) = self._detector(upload[np.newaxis], purified[np.newaxis])
        return float(suspicions_of(scores, self._clean_quantiles)[0])

    def _noise_shape(self, images: NDArray[np.uint8]) -> tuple[int, ...]:
        num_images, height, width, _ = images.shape
        channels, factor = self._facts["noise_layout"]
        return (self._facts["steps"], num_images, channels, height // factor, width // factor)


def load_engine(options: EngineOptions) -> OpenVinoEngine:
    """Loads the networks that the options name, converted at the first time.

    Raises:
        OSError: There is no such pipeline.
        ValueError: It is of no known kind, its adapters do not fit, or the detector is not
            calibrated.
        RuntimeError: OpenVINO cannot run it.
    """
    detector = None
    if options.detector is not None:
        source = options.detector
        detector = load_converted(source, lambda: _convert_detector(source))
        suspicions_of(np.zeros(1), detector.facts["clean_quantiles"])
    purifier = load_converted(_whole_folder(options), lambda: _convert_purifier(options))
    return OpenVinoEngine(purifier, detector, options.cpu_threads)


def _whole_folder(options: EngineOptions) -> Path | None:
    """The folder that holds all of the purifier; None where adapters, or a base, lie elsewhere."""
    folder = Path(unpacked(options.purifier))
    is_whole = options.adapters is None and (folder / "model_index.json").is_file()
    return folder if is_whole else None


def _convert_purifier(options: EngineOptions) -> Converted:
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from codefend.models.purifier.graph import PurifierGraph
    from codefend.models.purifier.loading import load_purifier

    disable_progress_bar()
    purifier = load_purifier(options.purifier, options.adapters)
    if BUCKET_STEP_PX % purifier.padding_multiple:
        msg = f"{options.purifier} needs sides of multiples of {purifier.padding_multiple} pixels"
        raise ValueError(msg)
    graph = PurifierGraph(purifier)
    example = (
        torch.zeros((*EXAMPLE_SIZE, 3), dtype=torch.uint8),
        graph.draw_noise(*EXAMPLE_SIZE, torch.Generator()),
    )
    facts = {
        "name": str(purifier.config.name),
        "version": str(purifier.config.version),
        "steps": int(purifier.config.num_steps),
        "noise_level": float(purifier.config.noise_level),
        "noise_layout": purifier.noise_layout,
    }
    return converted(graph, example, facts)


def _convert_detector(source: str) -> Converted:
    import torch

    from codefend.models.detector.network import DetectorGraph, SuspicionDetector

    detector = SuspicionDetector.from_pretrained(source, torch_dtype=torch.float32)
    uploads = torch.zeros((*EXAMPLE_SIZE, 3), dtype=torch.uint8)
    facts = {"clean_quantiles": list(detector.config.clean_quantiles)}
    return converted(DetectorGraph(detector), (uploads, uploads), facts)
