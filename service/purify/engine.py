"""What a worker needs of a purifier: the seam between the service and torch, or a fake in tests."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from codefend.service.devices import Backend
from codefend.service.settings import Settings
from codefend.service.stages import EngineFacts

__all__ = [
    "DeviceOutOfMemory",
    "Engine",
    "EngineOptions",
    "find_engine_loader",
]


class DeviceOutOfMemory(Exception):
    """The device has too little memory for this batch; a smaller one may fit."""


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
    """

    purifier: str
    device: str = "auto"
    cpu_threads: int | None = None
    adapters: str | None = None
    detector: str | None = None
    backend: Backend = Backend.AUTO

    @classmethod
    def of(cls, settings: Settings, device: str) -> Self:
        """The settings' engine on one of their devices."""
        return cls(
            settings.purifier,
            device,
            settings.cpu_threads,
            settings.purifier_adapters,
            settings.detector_source,
            settings.backend,
        )


class Engine(Protocol):
    """Purifies batches."""

    @property
    def facts(self) -> EngineFacts:
        """What it is."""

    def purify(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Purifies one batch, with fresh noise for every image.

        Args:
            images: (B, H, W, 3) uint8 RGB; H and W are multiples of 64.

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
