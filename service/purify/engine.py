"""What a worker needs of a purifier: the seam between the service and torch, or a fake in tests.

`NetworkEngine` is what all real engines have in common; a `Runner` is what they differ in.
"""

import importlib
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from codefend.models.buckets import Bucket
from codefend.models.detector.calibration import suspicions_of
from codefend.models.purifier.strengths import Strength
from codefend.service.cores import share_threads, usable_cores
from codefend.service.devices import Backend, CpuDtype, GpuDtype
from codefend.service.stages import EngineFacts

if TYPE_CHECKING:
    from codefend.service.settings import Settings

__all__ = [
    "CalibratedDetector",
    "DeviceOutOfMemory",
    "Engine",
    "EngineOptions",
    "GraphLimits",
    "NetworkEngine",
    "RemoteEngine",
    "Runner",
    "find_engine_loader",
]

SEED_BITS = 128


class DeviceOutOfMemory(Exception):
    """The device has too little memory for this batch; a smaller one may fit."""


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """What may be captured as CUDA graphs.

    Attributes:
        max_images: Most images of a batch.
        max_pixels: Most pixels of a batch.
        memory_share: Of the device's memory, for all graphs together.
        start_sides_px: Of the square buckets that are captured at the start, in every batch size;
            others are when they are met again.
    """

    max_images: int = 8
    max_pixels: int = 4_194_304
    memory_share: float = 0.25
    start_sides_px: tuple[int, ...] = (256, 512)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is loaded with.

    Attributes:
        purifier: Directory or hub id of the pipeline.
        device: `auto`, `cpu`, `cuda:0`, ...
        cpu_threads: Threads on a CPU; None for all cores.
        adapters: Directory or hub id of adapters for a latent pipeline.
        detector: Directory or hub id of the detector; None for no suspicion.
        backend: What runs the networks.
        gpu_dtype: Precision of the purifier on a GPU.
        graphs: What is captured there.
        cpu_dtype: Precision of the purifier on a CPU.
        strength: One that the purifier must have.
    """

    purifier: str
    device: str = "auto"
    cpu_threads: int | None = None
    adapters: str | None = None
    detector: str | None = None
    backend: Backend = Backend.AUTO
    gpu_dtype: GpuDtype = GpuDtype.FLOAT16
    graphs: GraphLimits = GraphLimits()
    cpu_dtype: CpuDtype = CpuDtype.AUTO
    strength: Strength = Strength.STANDARD

    @classmethod
    def of(cls, settings: "Settings", device: str) -> Self:
        """The settings' engine on one of their devices, with its share of the cores."""
        num_on_cpu = sum(each in {"auto", "cpu"} for each in settings.devices)
        share = share_threads(usable_cores(), max(1, num_on_cpu))
        return cls(
            settings.purifier,
            device,
            settings.cpu_threads or share.purifier,
            settings.purifier_adapters,
            settings.detector_source,
            settings.backend,
            settings.gpu_dtype,
            GraphLimits(settings.max_batch, settings.max_batch_pixels, settings.gpu_graph_memory),
            settings.cpu_dtype,
            settings.strength,
        )


class Engine(Protocol):
    """Purifies batches."""

    @property
    def facts(self) -> EngineFacts:
        """What it is."""

    def purify(
        self, images: NDArray[np.uint8], strength: Strength = Strength.STANDARD
    ) -> NDArray[np.uint8]:
        """Purifies one batch, with fresh noise for every image.

        Args:
            images: (B, H, W, 3) uint8 RGB; H and W are multiples of 64.
            strength: Of all of them; one that its facts name.

        Returns:
            The same shape and type.

        Raises:
            DeviceOutOfMemory: The device has too little memory for so large a batch.
        """

    def suspect(self, upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> float | None:
        """How much an upload looks attacked, by what its purification took out.

        Args:
            upload: (H, W, 3) uint8 RGB, at its own size.
            purified: The same, purified.

        Returns:
            Suspicion in [0, 1]; None if there is no detector.
        """


@runtime_checkable
class RemoteEngine(Protocol):
    """Purifies elsewhere: what `run_batch` of the worker does, it has done there."""

    def run_batch(
        self,
        bucket: Bucket,
        uploads: Sequence[NDArray[np.uint8]],
        strength: Strength = Strength.STANDARD,
    ) -> tuple[list[NDArray[np.uint8]], list[float | None]]:
        """What `codefend.service.purify.worker.run_batch` says of its batch, engine apart."""


class Runner(Protocol):
    """Runs a purifier's network on one device."""

    def purify(
        self, images: NDArray[np.uint8], seed: int, levels: Sequence[float] | None = None
    ) -> tuple[NDArray[np.uint8], float]:
        """Runs one batch.

        Args:
            images: (B, H, W, 3) uint8 RGB.
            seed: Of the noise: 128 bits.
            levels: Noise level of each of the purifier's steps; None for its own.

        Returns:
            The same shape and type; and the sum of all levels, as `PurifierGraph` has it.

        Raises:
            DeviceOutOfMemory: The device has too little memory for so large a batch.
        """


@dataclass(frozen=True, slots=True)
class CalibratedDetector:
    """A detector on one device.

    Attributes:
        score: From an image, (H, W, 3) uint8, and the same, purified, to a score (1,).
        clean_quantiles: Its calibration.
    """

    score: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.floating]]
    clean_quantiles: Sequence[float]

    def __post_init__(self) -> None:
        suspicions_of(np.zeros(1), self.clean_quantiles)  # a ValueError if there are none


class NetworkEngine:
    """An engine of real networks: fresh noise for every batch, and what came out of it checked.

    Attributes:
        runner: What runs the purifier.
        facts: What it is.
    """

    def __init__(
        self, runner: Runner, facts: EngineFacts, detector: CalibratedDetector | None
    ) -> None:
        """Takes what runs the networks.

        Args:
            runner: What runs the purifier.
            facts: What it is.
            detector: None for no suspicion.
        """
        self.runner = runner
        self.facts = facts
        self._detector = detector

    def purify(
        self, images: NDArray[np.uint8], strength: Strength = Strength.STANDARD
    ) -> NDArray[np.uint8]:
        """Purifies one batch, with fresh noise for every image.

        A strength of more steps than the purifier has runs it again on what came out, in whole
        levels as any picture: so one network, converted or captured once, serves every strength.

        Args:
            images: (B, H, W, 3) uint8 RGB; H and W are multiples of 64.
            strength: Of all of them.

        Returns:
            The same shape and type.

        Raises:
            DeviceOutOfMemory: The device has too little memory for so large a batch.
            ValueError: The purifier has no such strength.
            ArithmeticError: What came out is no picture.
        """
        # Libraries start every process with one and the same seed. Noise that an attacker can
        # replay protects little, so each batch takes its seeds from the system.
        levels, steps = self.facts.levels_at(strength), self.facts.steps
        for start in range(0, len(levels), steps):
            seed, some = secrets.randbits(SEED_BITS), levels[start : start + steps]
            images, total = self.runner.purify(images, seed, some)
            if not math.isfinite(total):
                msg = "the purifier gave values that are no numbers"
                raise ArithmeticError(msg)
        return images

    def suspect(self, upload: NDArray[np.uint8], purified: NDArray[np.uint8]) -> float | None:
        """How much an upload looks attacked, by what its purification took out.

        Each image by itself, at its own size: padding and company would shift the calibration.

        Args:
            upload: (H, W, 3) uint8 RGB, at its own size.
            purified: The same, purified.

        Returns:
            Suspicion in [0, 1], by the detector's calibration; None if there is no detector.
        """
        if self._detector is None:
            return None
        scores = self._detector.score(upload, purified)
        return float(suspicions_of(scores, self._detector.clean_quantiles)[0])


def find_engine_loader(import_path: str) -> Callable[[EngineOptions], Engine]:
    """Finds the function behind `package.module:function`.

    Raises:
        ValueError: The path is malformed or leads nowhere.
    """
    module_name, separator, function_name = import_path.partition(":")
    if not separator:
        msg = f"an engine is named package.module:function, not {import_path}"
        raise ValueError(msg)
    try:
        loader = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        msg = f"there is no engine {import_path}"
        raise ValueError(msg) from error
    return cast("Callable[[EngineOptions], Engine]", loader)
