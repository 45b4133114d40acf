"""Runs a purifier eagerly with torch, channels last; imported by workers, never by the service."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codefend.models.purifier.graph import PurifierGraph
from codefend.service.purify.engine import DeviceOutOfMemory

__all__ = ["TorchRunner"]

# Torch takes so many of a seed's bits.
SEED_MASK = (1 << 63) - 1


class TorchRunner:
    """Runs a purifier eagerly on one device.

    Attributes:
        graph: The network.
        device: Where it runs.
    """

    def __init__(self, graph: PurifierGraph, device: torch.device) -> None:
        """Moves the network to its device.

        Args:
            graph: Of a purifier of any kind and floating point type.
            device: Where it runs.
        """
        # Shapes repeat: let cuDNN choose its algorithms once for each.
        torch.backends.cudnn.benchmark = True
        self.device = device
        self.graph = graph.to(device)
        self.graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._generator = torch.Generator(device)
        self._levels: dict[tuple[float, ...], Tensor] = {}

    def describe(self) -> dict[str, Any]:
        """What it computes in, for logs."""
        return {"dtype": str(self.graph.purifier.dtype).removeprefix("torch.")}

    def purify(
        self, images: NDArray[np.uint8], seed: int, levels: Sequence[float] | None = None
    ) -> tuple[NDArray[np.uint8], float]:
        """Runs the purifier on one batch, as `Runner` says."""
        try:
            return self._purify(images, seed, tuple(levels or self.graph.own_levels))
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # Out here the error is gone, and with it the frames that held the batch: only now can what
        # it took be given back.
        torch.cuda.empty_cache()
        raise DeviceOutOfMemory(reason)

    def seeded(self, seed: int) -> torch.Generator:
        """The source of one batch's noise, on the device."""
        return self._generator.manual_seed(seed & SEED_MASK)

    def levels_on_device(self, levels: tuple[float, ...]) -> Tensor:
        """(S,) float32; copied to the device once."""
        if levels not in self._levels:
            self._levels[levels] = torch.tensor(levels, device=self.device)
        return self._levels[levels]

    @torch.inference_mode()
    def _purify(
        self, images: NDArray[np.uint8], seed: int, levels: tuple[float, ...]
    ) -> tuple[NDArray[np.uint8], float]:
        pixels = torch.tensor(images, device=self.device)
        num_images, height, width, _ = images.shape
        noise = self.graph.draw_noise(num_images, height, width, self.seeded(seed))
        purified, total = self.graph(pixels, noise, self.levels_on_device(levels))
        return purified.cpu().numpy(), float(total)
